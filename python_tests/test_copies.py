"""Whatever a trainer keeps can be pickled and copied, and goes on by itself."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import adadagrad_kernels as adk

COPIES = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "deepcopy": copy.deepcopy}
copies = pytest.mark.parametrize("again", COPIES.values(), ids=COPIES)


def controller() -> adk.BatchController:
    return adk.BatchController(adk.NormTest(eta=0.5), batch_size=4, max_batch_size=32)


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(3, requires_grad=True)], lr=1.0)


THINGS: dict[str, Callable[[], Any]] = {
    "controller": controller,
    "schedule": lambda: adk.MilestoneSchedule({0: 4, 100: 8}),
    "criterion": lambda: adk.InnerProductTest(theta=0.9),
    "sampler": lambda: adk.AdaptiveBatchSampler(50, controller()),
    "sampler of a number": lambda: adk.AdaptiveBatchSampler(50, 4),
    "rates by batch": lambda: adk.BatchSizeLR(sgd(), "linear", batch_size=4),
    "rates by samples": lambda: adk.SamplesLR(CosineAnnealingLR(sgd(), 10), 4),
    "optimizer": lambda: adk.Adagrad([torch.zeros(3, requires_grad=True)], lr=0.1),
    "norm optimizer": lambda: adk.AdagradNorm([torch.zeros(3, requires_grad=True)], lr=0.1),
    "planner": lambda: adk.MicroBatchPlanner(max_samples=16),
    "accumulator": adk.StatisticsAccumulator,
}


@copies
@pytest.mark.parametrize("name", THINGS)
def test_can_be_kept(name: str, again: Callable[[Any], Any]) -> None:
    thing = THINGS[name]()
    other = again(thing)
    assert type(other) is type(thing)
    if hasattr(thing, "state_dict"):
        assert repr(other.state_dict()) == repr(thing.state_dict())


@copies
def test_a_copied_sampler_asks_its_own_controller(again: Callable[[Any], Any]) -> None:
    kept = controller()
    sampler = adk.AdaptiveBatchSampler(50, kept)
    ours, (other, others) = kept, again((sampler, kept))
    others.load_state_dict({**others.state_dict(), "batch_size": 16})
    assert len(next(iter(other))) == 16
    assert len(next(iter(sampler))) == ours.batch_size == 4


@copies
def test_a_copied_rate_follows_its_own_optimizer(again: Callable[[Any], Any]) -> None:
    optimizer = sgd()
    rates = adk.BatchSizeLR(optimizer, "linear", batch_size=4)
    other = again(rates)
    other.update(12)
    moved = []
    for each in (rates, other):
        parameter = each.optimizer.param_groups[0]["params"][0]
        parameter.grad = torch.ones(3)
        each.optimizer.step()
        moved.append(-parameter[0].item())
    assert moved == [1.0, 3.0]
    other.remove()
    parameter.grad = torch.ones(3)
    again(other).optimizer.step()  # removed, so that nothing is multiplied
    other.optimizer.step()
    assert -parameter[0].item() == 4.0
