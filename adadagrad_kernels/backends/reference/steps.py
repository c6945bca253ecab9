"""The definition of AdaGrad's and AdaGrad-Norm's steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.checks import ACCUMULATION_DTYPES

__all__ = [
    "adagrad_norm_step_",
    "adagrad_step_",
]


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad step of every tensor; returns the squared norm of the whole gradient."""
    total = sq_norm(params[0].device if params else None, 0.0)
    for param, grad, state_sum in zip(params, grads, state_sums, strict=True):
        unscaled = grad.to(ACCUMULATION_DTYPES[grad.dtype]) / _like(rule.grad_scale, grad)
        total += unscaled.double().square().sum()
        adagrad(param, unscaled, state_sum, rule)
    return total


def adagrad(param: Tensor, grad: Tensor, state_sum: Tensor, rule: AdagradRule) -> None:
    """The step of one tensor along a gradient that carries no scale any more."""
    dtype = ACCUMULATION_DTYPES[param.dtype]
    value = param.to(dtype)
    direction = -grad if rule.maximize else grad
    if rule.weight_decay:
        direction = direction + rule.weight_decay * value
    total = state_sum.to(dtype) + direction.square()
    step = _like(rule.lr, param) * direction / (total.sqrt() + rule.eps)
    _write(param, value - step, rule)
    _write(state_sum, total, rule)


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad-Norm step; one accumulator in all, or one for each row of each tensor."""
    norm = sq_norm(params[0].device if params else None, 0.0)
    directions = []
    for param, grad in zip(params, grads, strict=True):
        dtype = ACCUMULATION_DTYPES[param.dtype]
        direction = grad.to(dtype) / _like(rule.grad_scale, grad)
        norm += direction.double().square().sum()
        if rule.maximize:
            direction = -direction
        if rule.weight_decay:
            direction = direction + rule.weight_decay * param.to(dtype)
        directions.append(direction)
    totals = list(accumulators)
    if not row_wise:
        totals[0] = totals[0] + sum(d.double().square().sum() for d in directions)
    for index, (param, direction) in enumerate(zip(params, directions, strict=True)):
        if row_wise:
            squares = direction.double().square()
            rows = squares.flatten(1).sum(1) if param.dim() > 1 else squares
            totals[index] = totals[index] + rows.view_as(totals[index])
        total = totals[index if row_wise else 0]
        scale = (rule.lr / (total.sqrt() + rule.eps)).to(direction.dtype)
        shape = (-1, *[1] * (param.dim() - 1)) if param.dim() and row_wise else ()
        _write(param, param.to(direction.dtype) - scale.view(shape) * direction, rule)
    for accumulator, total in zip(accumulators, totals, strict=True):
        _write(accumulator, total, rule)
    return norm


def _like(scalar: float | Tensor, tensor: Tensor) -> float | Tensor:
    """The number in the type of the tensor's arithmetic, which it must not widen."""
    return scalar.to(ACCUMULATION_DTYPES[tensor.dtype]) if isinstance(scalar, Tensor) else scalar


def _write(tensor: Tensor, value: Tensor, rule: AdagradRule) -> None:
    """Copy, unless ``found_inf`` is not zero; decided where it lies, without waiting for it."""
    if rule.found_inf is not None:
        value = torch.where(rule.found_inf != 0, tensor, value.to(tensor.dtype))
    tensor.copy_(value)
