"""layer_statistics against other libraries, on each layer that they can do, in float64.

The shapes are those of the layers' own tests in Opacus and BackPACK. What a peer leaves out, or
does in a way of its own, is in a comment where it is left out here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from peer_sources import BACKPACK, OPACUS, PEERS, Found, sample_losses, trainable
from torch import Tensor, nn

from adadagrad_kernels.statistics import GradientStatistics, layer_statistics

B = 5
TOLERANCE = 1e-9

pytestmark = [
    # Opacus and BackPACK
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),
]


def need(peer: str) -> None:
    for name, module, peers in (("Opacus", "opacus", OPACUS), ("BackPACK", "backpack", BACKPACK)):
        if peer in peers and importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} is not installed")


def measured(model: nn.Module, inputs: Tensor, weights: Tensor) -> GradientStatistics:
    model.zero_grad()
    with layer_statistics(
        model, inner_products=True, variance=True, on_other="raise"
    ) as recorder:
        sample_losses(model(inputs), weights).mean().backward()
        record = recorder.statistics()
    assert record is not None
    return record


def assert_agrees(found: Found, record: GradientStatistics, rtol: float = TOLERANCE) -> None:
    """Every field that the peer has."""
    assert record.sq_norms is not None
    assert record.variance is not None
    assert record.mean_gradient is not None
    b = record.batch_size
    size = float(record.sq_norms.max())

    def equal(ours: Tensor, theirs: Tensor, scale: float) -> None:
        torch.testing.assert_close(ours.double(), theirs, rtol=rtol, atol=rtol * scale)

    if found.sq_norms is not None:
        equal(record.sq_norms, found.sq_norms, size)
    if found.inner_products is not None:
        assert record.inner_products is not None
        equal(record.inner_products, found.inner_products, size)
    for name, theirs in (found.mean or {}).items():
        equal(record.mean_gradient[name], theirs, size**0.5)
    for name, theirs in (found.variance or {}).items():
        equal(record.variance[name], theirs, size)
    for name, theirs in (found.sum_of_squares or {}).items():
        ours = (b - 1) * record.variance[name] + b * record.mean_gradient[name].square()
        equal(ours, theirs, size)
    for parts in (found.mean, found.variance, found.sum_of_squares):
        assert parts is None or set(parts) == set(record.variance)


def compare(peer: str, model: nn.Module, inputs: Tensor) -> None:
    need(peer)
    model = model.double().train()
    weights = torch.randn(model(inputs).shape, dtype=torch.float64)
    found = PEERS[peer](model, inputs, weights)
    assert_agrees(found, measured(model, inputs, weights))


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


Case = tuple[str, Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]


def pairs(cases: Iterable[Case]) -> Any:
    """Each case with each peer that is not left out."""
    return pytest.mark.parametrize(
        ("peer", "make", "shape"),
        [
            pytest.param(peer, make, shape, id=f"{name} {'x'.join(map(str, shape))}-{peer}")
            for name, make, shape, left_out in cases
            for peer in PEERS
            if peer not in left_out
        ],
    )


LINEAR: list[Case] = [
    ("bias", lambda: nn.Linear(11, 13), (11,), ()),
    ("no bias", lambda: nn.Linear(11, 13, bias=False), (11,), ()),
    ("bias", lambda: nn.Linear(10, 12), (1, 10), ()),
    ("bias", lambda: nn.Linear(10, 12), (4, 10), ()),
    ("no bias", lambda: nn.Linear(17, 19, bias=False), (3, 17), ()),
    # Ghost clipping has a rule for two and three dimensions.
    ("bias", lambda: nn.Linear(13, 15), (4, 3, 13), ("Opacus ghost",)),
    ("no bias", lambda: nn.Linear(5, 3, bias=False), (2, 3, 4, 5), ("Opacus ghost",)),
    ("two", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (6,), ()),
    ("two", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)), (7, 6), ()),
]


@pairs(LINEAR)
def test_linear(peer: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    compare(peer, make(), normal(*shape))
