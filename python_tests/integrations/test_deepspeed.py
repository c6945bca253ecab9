"""The recipe for DeepSpeed's engine, against a plain loop of one process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip(
    "deepspeed", reason="runs where deepspeed==0.19.8 is, which no requirements have"
)

import deepspeed_cases as cases
import torch
from support import ranks
from support.ranks import Cases, values
from torch.nn.functional import cross_entropy

import adadagrad_kernels as adk


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return ranks.run_once(("deepspeed_cases",), [2], tmp_path_factory)[2]


def plain_loop(controller: adk.BatchController) -> tuple[list[int], torch.Tensor]:
    """The same samples in whole batches, without an engine."""
    model, (inputs, targets) = cases.network(), cases.dataset().tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=cases.RATE, momentum=cases.MOMENTUM)
    rate = cases.schedule(optimizer)
    drawn = [index for unit in cases.draws(2 * cases.MICRO) for index in unit]
    sizes: list[int] = []
    with adk.layer_statistics(model, when=controller.wants_test) as recorder:
        while controller.samples_seen + controller.batch_size <= cases.BUDGET:
            own = drawn[controller.samples_seen :][: controller.batch_size]
            optimizer.zero_grad()
            cross_entropy(model(inputs[own]), targets[own]).backward()
            statistics = recorder.statistics()
            optimizer.step()
            controller.update(statistics, len(own))
            rate.step(len(own))
            sizes.append(len(own))
    return sizes, torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("case", "controller"),
    [
        ("measured_without_shards", cases.by_gradients),
        ("measured_with_sharded_states", cases.by_gradients),
        ("scheduled_with_sharded_states", cases.by_schedule),
        ("scheduled_with_sharded_gradients", cases.by_schedule),
        ("scheduled_with_sharded_parameters", cases.by_schedule),
    ],
)
def test_it_trains_as_a_plain_loop(
    told: Cases, case: str, controller: Callable[[], adk.BatchController]
) -> None:
    sizes, weights = plain_loop(controller())
    assert len(set(sizes)) > 2
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        assert of_rank["sizes"] == sizes
        torch.testing.assert_close(of_rank["weights"], weights, rtol=1e-4, atol=1e-5)
        assert torch.equal(of_rank["weights"], of_ranks[0]["weights"])
        assert of_rank["counted"] == (len(sizes), sum(sizes), sum(sizes))


@pytest.mark.parametrize(
    "kind",
    [
        "measured without shards",
        "measured with sharded states",
        "scheduled with sharded gradients",
    ],
)
def test_a_resumed_run_is_the_one_that_never_stopped(told: Cases, kind: str) -> None:
    """From a checkpoint of the engine's own, bit for bit."""
    for of_rank in values(told["resumed"]):
        whole, stopped, resumed = of_rank[kind]
        assert stopped["sizes"] + resumed["sizes"] == whole["sizes"]
        assert len(set(resumed["sizes"])) > 1
        assert resumed["counted"] == whole["counted"]
        assert torch.equal(resumed["weights"], whole["weights"])
        assert not torch.equal(stopped["weights"], whole["weights"])


def test_gradients_that_are_cut_in_the_backward_pass_are_not_measured(told: Cases) -> None:
    for said in values(told["measured_with_sharded_gradients"]):
        assert "the gradient of '0.weight' is not in .grad" in said
        assert "ZeRO stage 2" in said


def test_parameters_in_parts_are_refused_by_name(told: Cases) -> None:
    for said in values(told["measured_with_sharded_parameters"]):
        assert "UnsupportedModelError: the parameter '0.weight' is one of DeepSpeed's ZeRO" in said
        assert "stage 0 or 1" in said
