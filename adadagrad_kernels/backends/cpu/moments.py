"""Moments of rows on the CPU: of a batch, of a batch with a step along its mean, of chunks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels import _native
from adadagrad_kernels.backends.outputs import BatchMoments, addresses
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import address

__all__ = [
    "accumulate_moments_",
    "batch_adagrad_step_",
    "batch_moments",
    "subtract_square_",
]

_C: Any = _native.C  # None only where `unavailable` says so, and then nothing here is called


def batch_moments(per_sample_grads: Tensor, variance: bool, inner_products: bool) -> BatchMoments:
    """Mean, variance, squared norms and inner products with the mean, of the rows of G."""
    moments = BatchMoments.empty(per_sample_grads, variance, inner_products)
    _C.batch_moments(*_arguments(per_sample_grads, moments), torch.get_num_threads())
    return moments


def batch_adagrad_step_(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    rule: AdagradRule,
    variance: bool,
    inner_products: bool,
) -> BatchMoments:
    """The moments of G, and an AdaGrad step of ``param`` along their mean."""
    moments = BatchMoments.empty(per_sample_grads, variance, inner_products)
    _C.batch_adagrad_step(
        address(param),
        address(state_sum),
        *_arguments(per_sample_grads, moments),
        rule.lr,
        rule.eps,
        rule.weight_decay,
        rule.maximize,
        torch.get_num_threads(),
    )
    increment_version([param, state_sum])
    return moments


def _arguments(grads: Tensor, moments: BatchMoments) -> tuple[int, ...]:
    code = TYPE_CODES[grads.dtype]
    return (address(grads), code, *grads.shape, grads.stride(0), *addresses(moments))


def accumulate_moments_(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    """A chunk of rows added to the sum and squared deviations of ``samples`` others."""
    _C.accumulate_moments(
        address(chunk),
        TYPE_CODES[chunk.dtype],
        (*chunk.shape, chunk.stride(0), samples),
        (address(sum), 0 if squares is None else address(squares), address(sq_norms)),
        torch.get_num_threads(),
    )
    increment_version([sum, sq_norms] if squares is None else [sum, squares, sq_norms])


def subtract_square_(squares: Tensor, grad: Tensor, scale: float) -> None:
    """``squares`` less ``scale`` times the square of ``grad``, and zero at least."""
    _C.subtract_square(
        address(grad),
        address(squares),
        TYPE_CODES[squares.dtype],
        squares.numel(),
        scale,
        torch.get_num_threads(),
    )
    increment_version([squares])
