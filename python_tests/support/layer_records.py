"""layer_statistics of one layer, whatever its outputs, against one sample at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics
from support.shares import Shares

#: Samples of a batch.
B = 5


def assert_measured(
    model: nn.Module,
    inputs: Any,
    call: Callable[[nn.Module, Any], Tensor] | None = None,
    rtol: float = 1e-9,
    **settings: Any,
) -> None:
    """All statistics of a loss that weighs every output element by itself, in float64."""
    run = call or (lambda module, x: module(x))
    generator = torch.Generator().manual_seed(3)
    shape = run(model, inputs).shape
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)

    def share(rows: slice) -> Tensor:
        output = run(model, inputs[rows])
        return (output.tanh() * weights[rows]).sum() / len(inputs)

    expected = Shares(model, lambda i: share(slice(i, i + 1)), len(inputs))
    model.zero_grad()
    with layer_statistics(model, inner_products=True, variance=True, **settings) as recorder:
        share(slice(0, len(inputs))).backward()
        record = recorder.statistics()
    expected.check(model, record, rtol)


def normal(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


def norms_of_one_step(model: nn.Module, x: Tensor) -> Tensor:
    """The norms that a step on its own has."""
    model.zero_grad()
    with layer_statistics(model) as recorder:
        model(x).square().sum().backward()
        norms: Tensor = recorder.statistics().sq_norms
    model.zero_grad()
    return norms
