"""trl's SFTTrainer by the mixin: its loss, its tokens, and the statistics of its first step."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="trl is not installed")
pytest.importorskip("datasets", reason="datasets is not installed")

from support import ranks
from support.ranks import Told, values


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Told]]:
    return ranks.run_once(("sft_cases",), 1, tmp_path_factory, seconds=600.0)


def test_the_layers_see_a_loss_of_the_logits(told: dict[str, list[Told]]) -> None:
    (run,) = values(told["by_layers"])
    size, variance, norm, tokens = run["first"]
    first, *_, last, _ = run["history"]
    assert first["batch/used"] == size
    assert first["grad/var"] == pytest.approx(variance, rel=1e-4)
    assert first["grad/norm_sq"] == pytest.approx(norm, rel=1e-4)
    # trl counts them: in training alone, though the loss was asked twice what it is a mean of.
    assert first["num_tokens"] == tokens
    assert last["samples_seen"] == 156
    assert first["batch/used"] < last["batch/global"]


def test_micro_batches_take_its_own_loss(told: dict[str, list[Told]]) -> None:
    """Its gradient is that of the logits; its variance is an estimate."""
    (run,) = values(told["by_micro_batches"])
    first, *_, last, _ = run["history"]
    assert first["grad/norm_sq"] == pytest.approx(run["first"][2], rel=1e-4)
    assert first["num_tokens"] == run["first"][3]
    assert last["samples_seen"] == 156
    assert first["batch/used"] < last["batch/global"]


def test_a_loss_that_no_layer_sees_is_refused(told: dict[str, list[Told]]) -> None:
    (said,) = values(told["with_its_own_loss"])
    assert "'transformer.wte.weight' does not add up" in said
