"""Layers without per-sample gradients are refused by name, and the same layers frozen are not."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from support.sample_loop import SampleLoop
from torch import nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import PerSampleGradients, backward_with_statistics

x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
y = torch.zeros(6, 2, dtype=torch.float64)


def model_with(norm: nn.Module) -> nn.Module:
    block = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=norm, act=nn.ReLU()))
    return nn.Sequential(
        OrderedDict(block=block, flat=nn.Flatten(), head=nn.Linear(16, 2))
    ).double()


@pytest.mark.parametrize("momentum_statistics", [True, False])
def test_batch_norm_in_training(momentum_statistics: bool) -> None:
    model = model_with(nn.BatchNorm2d(4, track_running_stats=momentum_statistics))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UnsupportedModelError) as raised:
        PerSampleGradients(model, F.mse_loss).backward(x, y)
    message = str(raised.value)
    assert "'block.norm' (BatchNorm2d)" in message
    for way_out in ("GroupNorm", ".eval()", "MicroBatchGradients"):
        assert way_out in message
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_batch_norm_with_frozen_statistics_is_measured() -> None:
    model = model_with(nn.BatchNorm2d(4))
    model.block.norm.eval()
    statistics = backward_with_statistics(model, F.mse_loss, x, y)
    loop = SampleLoop.run(model, F.mse_loss, x, y)
    loop.check(statistics, inner_products=False, variance=False)


def test_batch_norm_without_statistics_cannot_be_frozen() -> None:
    model = model_with(nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(UnsupportedModelError, match="let it track running statistics"):
        backward_with_statistics(model, F.mse_loss, x, y)


def test_instance_norm() -> None:
    model = model_with(nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    with pytest.raises(UnsupportedModelError, match=r"block\.norm.*running statistics in place"):
        backward_with_statistics(model, F.mse_loss, x, y)
    model = model_with(nn.InstanceNorm2d(4, affine=True))
    loop = SampleLoop.run(model, F.mse_loss, x, y)
    statistics = backward_with_statistics(model, F.mse_loss, x, y)
    loop.check(statistics, inner_products=False, variance=False)


@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_sparse_gradients(layer: type[nn.Module]) -> None:
    tokens = torch.zeros(6, 2, dtype=torch.long)
    with pytest.raises(UnsupportedModelError, match=r"the model .*sparse gradients.*sparse=False"):
        backward_with_statistics(layer(5, 3, sparse=True), F.mse_loss, tokens, y)


def test_directional_derivatives_refuse_too() -> None:
    model = model_with(nn.BatchNorm2d(4))
    with pytest.raises(UnsupportedModelError, match=r"block\.norm"):
        PerSampleGradients(model, F.mse_loss).directional_derivatives(x, y, {})
