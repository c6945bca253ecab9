"""Plain torch, on any device: the definition of every op, and in float64 the oracle of the tests.

Written to be read. Each function here is what the kernels of the other backends must reproduce;
arguments have passed the ops' checks. Sums of float32, bfloat16 and float16 are kept in float32,
sums over samples and over tensors in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adadagrad_kernels.backends import reference_layers
from adadagrad_kernels.backends.reference_layers import embedding_moments
from adadagrad_kernels.backends.reference_sparse import sparse_mean_step_
from adadagrad_kernels.checks import ACCUMULATION_DTYPES

__all__ = [
    "accumulate_moments_",
    "adagrad_norm_step_",
    "adagrad_step_",
    "batch_adagrad_step_",
    "batch_moments",
    "embedding_moments",
    "norm_layer_moments",
    "sparse_mean_step_",
    "subtract_square_",
    "unavailable",
]


def unavailable() -> str | None:
    """Why this backend cannot run here; always None."""
    return None


def batch_moments(
    per_sample_grads: Tensor, variance: bool, inner_products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, squared norms and inner products with the mean, of the rows of G.

    What was not asked for comes back empty.
    """
    grads = per_sample_grads.to(ACCUMULATION_DTYPES[per_sample_grads.dtype])
    samples = grads.shape[0]
    mean = grads.sum(0) / samples
    spread = mean.new_empty(0)
    if variance:
        spread = (grads - mean).square().sum(0) / (samples - 1)
    sq_norms = grads.double().square().sum(1)
    products = sq_norms.new_empty(0)
    if inner_products:
        products = grads.double() @ mean.double()
    return mean, spread, sq_norms, products


def accumulate_moments_(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    """A chunk of rows added to the sum and squared deviations of ``samples`` others."""
    rows = chunk.to(ACCUMULATION_DTYPES[chunk.dtype])
    count, added = len(rows), rows.sum(0)
    if squares is not None:
        mean = added / count
        spread = (rows - mean).square().sum(0)
        if samples:
            apart = mean - sum / samples
            spread += squares + apart.square() * (samples * count / (samples + count))
        squares.copy_(spread)
    sum.copy_(sum + added if samples else added)
    sq_norms.copy_(rows.double().square().sum(1))


def subtract_square_(squares: Tensor, grad: Tensor, scale: float) -> None:
    """``squares`` less ``scale`` times the square of ``grad``, and zero at least."""
    squares.addcmul_(grad, grad, value=-scale).clamp_(min=0)


def norm_layer_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Moments of the samples' contributions to scale and shift, [samples, features] each."""
    scale, shift = reference_layers.norm_contributions(inputs, grad_outputs, mean, rstd)
    samples = len(scale)
    total, spread, sq_norms, products = batch_moments(scale, variance, inner_products)
    nothing = total.new_empty(0)
    if not bias:
        return total * samples, nothing, sq_norms, spread, nothing, products * samples
    other, other_spread, norms, along = batch_moments(shift, variance, inner_products)
    products = (products + along) * samples
    return total * samples, other * samples, sq_norms + norms, spread, other_spread, products


def batch_adagrad_step_(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    variance: bool,
    inner_products: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The moments of G, and an AdaGrad step of ``param`` along their mean."""
    moments = batch_moments(per_sample_grads, variance, inner_products)
    mean = moments[0].view(param.shape)
    _adagrad(param, mean, state_sum, lr, eps, weight_decay, maximize)
    return moments


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | Tensor,
    found_inf: Tensor | None,
) -> Tensor:
    """An AdaGrad step of every tensor; returns the squared norm of the whole gradient."""
    sq_norm = torch.zeros((), dtype=torch.float64, device=params[0].device if params else None)
    for param, grad, state_sum in zip(params, grads, state_sums, strict=True):
        unscaled = grad.to(ACCUMULATION_DTYPES[grad.dtype]) / _like(grad_scale, grad)
        sq_norm += unscaled.double().square().sum()
        _adagrad(param, unscaled, state_sum, lr, eps, weight_decay, maximize, found_inf)
    return sq_norm


def _adagrad(
    param: Tensor,
    grad: Tensor,
    state_sum: Tensor,
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    found_inf: Tensor | None = None,
) -> None:
    dtype = ACCUMULATION_DTYPES[param.dtype]
    value = param.to(dtype)
    direction = -grad if maximize else grad
    if weight_decay:
        direction = direction + weight_decay * value
    total = state_sum.to(dtype) + direction.square()
    _write(param, value - _like(lr, param) * direction / (total.sqrt() + eps), found_inf)
    _write(state_sum, total, found_inf)


def _like(scalar: float | Tensor, tensor: Tensor) -> float | Tensor:
    """The number in the type of the tensor's arithmetic, which it must not widen."""
    return scalar.to(ACCUMULATION_DTYPES[tensor.dtype]) if isinstance(scalar, Tensor) else scalar


def _write(tensor: Tensor, value: Tensor, found_inf: Tensor | None) -> None:
    """Copy, unless ``found_inf`` is not zero; decided where it lies, without waiting for it."""
    if found_inf is not None:
        value = torch.where(found_inf != 0, tensor, value.to(tensor.dtype))
    tensor.copy_(value)


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | Tensor,
    found_inf: Tensor | None,
) -> Tensor:
    """An AdaGrad-Norm step; one accumulator in all, or one for each row of each tensor."""
    sq_norm = torch.zeros((), dtype=torch.float64, device=params[0].device if params else None)
    directions = []
    for param, grad in zip(params, grads, strict=True):
        dtype = ACCUMULATION_DTYPES[param.dtype]
        direction = grad.to(dtype) / _like(grad_scale, grad)
        sq_norm += direction.double().square().sum()
        if maximize:
            direction = -direction
        if weight_decay:
            direction = direction + weight_decay * param.to(dtype)
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
        scale = (lr / (total.sqrt() + eps)).to(direction.dtype)
        shape = (-1, *[1] * (param.dim() - 1)) if param.dim() and row_wise else ()
        _write(param, param.to(direction.dtype) - scale.view(shape) * direction, found_inf)
    for accumulator, total in zip(accumulators, totals, strict=True):
        _write(accumulator, total, found_inf)
    return sq_norm
