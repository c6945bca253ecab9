"""The ops' formulas in extended precision, written from the definitions, apart from the package."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adadagrad_kernels.ops import BatchMoments
from support.buffers import per_sample_grads
from support.tolerances import (
    Array,
    accumulation_dtype,
    assert_within,
    direction_tolerance,
    extended,
    inner_product_tolerance,
    mean_tolerance,
    smallest,
    sq_norm_tolerance,
    stored_tolerance,
    update_tolerance,
    variance_tolerance,
)


class Moments(NamedTuple):
    """Each statistic, and beside it how far a result may be from it."""

    mean: tuple[Array, Array]
    variance: tuple[Array, Array]
    sq_norms: tuple[Array, Array]
    inner_products: tuple[Array, Array]


class Rule(NamedTuple):
    """The settings of an update."""

    lr: float = 0.125
    eps: float = 1e-10
    weight_decay: float = 0.0
    maximize: bool = False
    grad_scale: float = 1.0

    def keywords(self, *leave_out: str) -> dict[str, float]:
        return {name: value for name, value in self._asdict().items() if name not in leave_out}


@np.errstate(invalid="ignore")
def batch_moments(grads: Tensor) -> Moments:
    rows = extended(grads)
    samples = len(rows)
    mean = rows.sum(0) / samples
    variance = ((rows - mean) ** 2).sum(0) / max(1, samples - 1)
    return Moments(
        (mean, mean_tolerance(grads)),
        (variance, variance_tolerance(grads, variance)),
        ((rows**2).sum(1), sq_norm_tolerance(rows, grads.dtype)),
        (rows @ mean, inner_product_tolerance(grads, mean)),
    )


@functools.cache
def shared_case(samples: int, features: int, dtype: torch.dtype) -> tuple[Tensor, Moments]:
    """Gradients and their moments, computed once for all backends; not to be written to."""
    grads = per_sample_grads(samples, features, dtype).tensor
    return grads, batch_moments(grads)


def assert_moments(actual: BatchMoments, expected: Moments) -> None:
    """Every statistic that is there, against the definitions."""
    for name, given in actual._asdict().items():
        if given is not None:
            assert_within(name, given, *getattr(expected, name))


@np.errstate(invalid="ignore")
def assert_accumulated(
    total: Tensor, squares: Tensor | None, sq_norms: Tensor, rows: Tensor
) -> None:
    """What all rows were added to: errors are the mean's and the variance's, times their number."""
    values, count = extended(rows), len(rows)
    exact = values.sum(0)
    assert_within("sum", total, exact, count * mean_tolerance(rows))
    norms = (values**2).sum(1)
    assert_within("sq_norms", sq_norms, norms, sq_norm_tolerance(values, rows.dtype))
    if squares is not None:
        deviations = ((values - exact / count) ** 2).sum(0)
        allowed = count * variance_tolerance(rows, deviations / count)
        assert_within("squares", squares, deviations, allowed)


def _direction(grad: Array, param: Array, rule: Rule) -> Array:
    gradient = grad / rule.grad_scale
    return (-gradient if rule.maximize else gradient) + rule.weight_decay * param


@np.errstate(invalid="ignore", over="ignore")
def assert_adagrad(
    after: tuple[Tensor, Tensor],
    before: tuple[Tensor, Tensor],
    grad: Array,
    rule: Rule,
    error: Array | float = 0.0,
) -> None:
    """One tensor after AdaGrad's step, where ``grad`` carries an error of its own."""
    dtype = before[0].dtype
    param, total = (extended(tensor) for tensor in before)
    direction = _direction(grad, param, rule)
    off = direction_tolerance(grad / rule.grad_scale, rule.weight_decay * param, dtype) + error
    total = total + direction**2
    total_off = 2 * np.abs(direction) * off + off**2
    assert_within("state_sum", after[1], total, stored_tolerance(total, total_off, dtype))
    update = rule.lr * direction / (np.sqrt(total) + rule.eps)
    off = rule.lr * off + smallest(accumulation_dtype(dtype))
    off = 2 * off / (np.sqrt(total) + rule.eps) + update_tolerance(update, 0.0, dtype)
    assert_within("param", after[0], param - update, stored_tolerance(param - update, off, dtype))


@np.errstate(invalid="ignore", over="ignore")
def assert_adagrad_norm(
    after: tuple[Sequence[Tensor], Sequence[Tensor]],
    before: tuple[Sequence[Tensor], Sequence[Tensor]],
    grads: Sequence[Tensor],
    rule: Rule,
    row_wise: bool,
) -> None:
    """All tensors after AdaGrad-Norm's step, with one accumulator in all or one per row."""
    params, directions, errors, sums, sum_errors = [], [], [], [], []
    for param, grad in zip(before[0], grads, strict=True):
        value = extended(param)
        rows = param.shape[0] if param.dim() and row_wise else 1
        gradient = extended(grad)
        direction = _direction(gradient, value, rule)
        decay = rule.weight_decay * value
        off = direction_tolerance(gradient / rule.grad_scale, decay, param.dtype)
        shape = (rows, direction.size // max(rows, 1))
        flat, flat_off = direction.reshape(shape), off.reshape(shape)
        params.append(value)
        directions.append(direction)
        errors.append(off)
        sums.append((flat**2).sum(1))
        rounding = sq_norm_tolerance(flat, param.dtype)
        sum_errors.append((2 * np.abs(flat) * flat_off + flat_off**2).sum(1) + rounding)
    if not row_wise:
        sums, sum_errors = [sum(sums, np.zeros(1))], [sum(sum_errors, np.zeros(1))]
    for index, param in enumerate(after[0]):
        which = index if row_wise else 0
        accumulator = extended(before[1][which]).reshape(-1) + sums[which]
        name = f"accumulator {which}"
        allowed = sum_errors[which] + 1e-15 * accumulator
        assert_within(name, after[1][which].reshape(-1), accumulator, allowed)
        shape = (-1, *[1] * (param.dim() - 1)) if row_wise and param.dim() else ()
        scale = (rule.lr / (np.sqrt(accumulator) + rule.eps)).reshape(shape)
        relative = np.where(accumulator > 0, sum_errors[which] / np.maximum(accumulator, 1e-300), 0)
        update = scale * directions[index]
        off = update_tolerance(update, relative.reshape(shape), param.dtype) + scale * errors[index]
        new = params[index] - update
        assert_within(f"param {index}", param, new, stored_tolerance(new, off, param.dtype))
