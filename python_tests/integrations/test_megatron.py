"""The recipe for Megatron: a GPT of megatron-core, measured by its micro-batches."""

from __future__ import annotations

import pytest

pytest.importorskip(
    "megatron.core", reason="runs where megatron-core==0.16.1 is, which no requirements have"
)

import torch
from support import ranks
from support.ranks import Cases, values


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return ranks.run_once(("megatron_cases",), (1, 2), tmp_path_factory)[request.param]


def test_its_micro_batches_are_measured_as_autograd_has_them(told: Cases) -> None:
    of_ranks = values(told["trained"])
    for of_rank in of_ranks:
        assert len(set(of_rank["sizes"])) > 2
        for ours, direct in zip(of_rank["ours"], of_rank["direct"], strict=True):
            assert ours == pytest.approx(direct, rel=1e-4)
        assert [samples for samples, *_ in of_rank["ours"]] == of_rank["sizes"]
        assert of_rank["sizes"] == of_ranks[0]["sizes"]
        assert torch.equal(of_rank["weights"], of_ranks[0]["weights"])


def test_layers_that_have_positions_first_are_refused_by_name(told: Cases) -> None:
    for wide, square in values(told["measured_by_layers"]):
        assert "'decoder.layers.0.self_attention.linear_qkv'" in wide
        assert "8 rows in a batch of 6 samples" in wide
        assert "layer 'decoder.layers.0.self_attention." in square
        assert "MicroBatchGradients" in wide
        assert "MicroBatchGradients" in square
