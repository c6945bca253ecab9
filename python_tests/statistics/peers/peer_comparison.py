"""Compares a record of layer_statistics with what a peer found, field by field."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from peer_sources import BACKPACK, OPACUS, PEERS, Found, sample_losses
from torch import Tensor, nn

from adadagrad_kernels.statistics import GradientStatistics, layer_statistics

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-6}

#: A name, the model, the shape of a sample, and the peers that are left out.
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


def require(peer: str) -> None:
    for name, module, peers in (("Opacus", "opacus", OPACUS), ("BackPACK", "backpack", BACKPACK)):
        if peer in peers and importlib.util.find_spec(module) is None:
            pytest.skip(f"{name} is not installed")


def measured(
    model: nn.Module, inputs: Tensor, weights: Tensor, on_other: str = "raise"
) -> GradientStatistics:
    model.zero_grad()
    settings = {"inner_products": True, "variance": True, "on_other": on_other}
    with layer_statistics(model, **settings) as recorder:
        sample_losses(model(inputs), weights).mean().backward()
        record = recorder.statistics()
    assert record is not None
    return record


def assert_agrees(found: Found, record: GradientStatistics, rtol: float) -> None:
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


def compare(
    peer: str,
    model: nn.Module,
    inputs: Tensor,
    dtype: torch.dtype = torch.float64,
    on_other: str = "raise",
) -> None:
    require(peer)
    model = model.to(dtype).train()
    weights = torch.randn(model(inputs).shape, dtype=dtype)
    found = PEERS[peer](model, inputs, weights)
    assert_agrees(found, measured(model, inputs, weights, on_other), TOLERANCE[dtype])
