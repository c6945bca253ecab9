"""A whole training step: plain, with statistics from the layers, and by every peer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adadagrad_kernels import _native
from benchmarks.train_steps.models import Case, cnn, gpt, mlp
from benchmarks.train_steps.peers import peers
from benchmarks.train_steps.steps import QUANTITIES, Maker, checked, our_step, plain_step

CASES = {
    "mlp": (mlp(8, width=32), mlp()),
    "cnn-64": (cnn(4), cnn(64)),
    "cnn-512": (cnn(6), cnn(512)),
    "cnn-4096": (cnn(8), cnn(4096)),
    "gpt": (gpt(4, layers=1, width=32, tokens=8), gpt()),
}
Timed = Callable[[Maker, "str | None"], None]

PEERS = sorted(
    {(q, name) for _, case in CASES.values() for q in QUANTITIES for name in peers(case, q)}
)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, small: bool) -> Case:
    return CASES[request.param][0 if small else 1]


@pytest.fixture
def timed(benchmark: Any, case: Case) -> Timed:
    """Time a step that was found to be right, with what makes two results comparable beside it."""

    def run(make: Maker, quantity: str | None) -> None:
        benchmark.group = case.title
        benchmark.extra_info |= {
            "isa": _native.instruction_sets()["active"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        benchmark(checked(case, make, quantity))

    return run


def test_plain(timed: Timed) -> None:
    timed(plain_step, None)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_layer_statistics(timed: Timed, quantity: str) -> None:
    timed(lambda case: our_step(case, quantity), quantity)


@pytest.mark.parametrize(("quantity", "name"), PEERS)
def test_peer(timed: Timed, case: Case, quantity: str, name: str) -> None:
    make = peers(case, quantity).get(name)
    if make is None:
        pytest.skip(f"{name} does not give {quantity} of this model, or not in bounded memory")
    timed(make, quantity)
