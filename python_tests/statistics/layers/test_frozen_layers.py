"""Layers with a part of them frozen."""

from __future__ import annotations

import pytest
import torch
from support.layer_records import assert_measured, normal
from torch import nn


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(4, 3), (2, 4)),
        (nn.Conv1d(4, 3, 2), (4, 5)),
        (nn.LayerNorm(4), (3, 4)),
        (nn.GroupNorm(2, 4), (4, 3)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_weight_or_bias_frozen(layer: nn.Module, shape: tuple[int, ...], frozen: str) -> None:
    layer = layer.double().requires_grad_(True)
    getattr(layer, frozen).requires_grad_(False)
    before = getattr(layer, frozen).clone()
    assert_measured(layer, normal(*shape))
    assert getattr(layer, frozen).grad is None
    assert torch.equal(getattr(layer, frozen), before)
