"""A whole training step: plain, with statistics from the layers, and by every peer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from train_step_models import Case, cnn, gpt, mlp
from train_step_peers import peers
from train_steps import QUANTITIES, Step, check, our_step, plain_step, reference

from adadagrad_kernels import _native
from adadagrad_kernels.statistics import GradientStatistics

CASES = {
    "mlp": (mlp(8, width=32), mlp()),
    "cnn-64": (cnn(4), cnn(64)),
    "cnn-512": (cnn(6), cnn(512)),
    "cnn-4096": (cnn(8), cnn(4096)),
    "gpt": (gpt(4, layers=1, width=32, tokens=8), gpt()),
}
PEERS = sorted(
    {(q, name) for _, case in CASES.values() for q in QUANTITIES for name in peers(case, q)}
)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, small: bool) -> Case:
    return CASES[request.param][0 if small else 1]


@cache
def expected(case: Case) -> GradientStatistics:
    return reference(case)


@pytest.fixture
def timed(benchmark: Any, case: Case) -> Callable[[Step], object]:
    """Time a step, with what makes two results comparable written beside it."""

    def run(step: Step) -> object:
        benchmark.group = case.title
        benchmark.extra_info |= {
            "isa": _native.instruction_sets()["active"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        return benchmark(step)

    return run


def test_plain(timed: Callable[[Step], object], case: Case) -> None:
    training = case.build()
    check(timed(plain_step(training)), training, expected(case), None)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_layer_statistics(timed: Callable[[Step], object], case: Case, quantity: str) -> None:
    training = case.build()
    check(timed(our_step(training, quantity)), training, expected(case), quantity)


@pytest.mark.parametrize(("quantity", "name"), PEERS)
def test_peer(timed: Callable[[Step], object], case: Case, quantity: str, name: str) -> None:
    make = peers(case, quantity).get(name)
    if make is None:
        pytest.skip(f"{name} does not give {quantity} of this model, or not in bounded memory")
    training, step = make()
    check(timed(step), training, expected(case), quantity)
