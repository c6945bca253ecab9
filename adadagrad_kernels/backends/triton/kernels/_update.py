"""AdaGrad's formula and the scalars of a rule, for the kernels that update parameters."""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def scalar(value, IN_MEMORY: tl.constexpr):
    """A scalar in float32, as which it takes part in the arithmetic.

    It is an argument, float64 where a compiler passed it on, or an element of device memory.
    """
    number = tl.load(value) if IN_MEMORY else value
    return number.to(tl.float32)


@triton.jit
def load(pointers, mask):
    """Values in float32, zero where the mask says no; a mask of None says yes everywhere."""
    values = tl.load(pointers) if mask is None else tl.load(pointers, mask=mask, other=0.0)
    return values.to(tl.float32)


@triton.jit
def store(pointers, values, mask):
    """Values rounded to the type that is stored."""
    tl.store(pointers, values.to(pointers.dtype.element_ty), mask=mask)


@triton.jit
def unscaled(gradient, grad_scale, IN_MEMORY: tl.constexpr):
    """Gradient / grad_scale; a scale of None is one."""
    if grad_scale is not None:
        gradient = tl.div_rn(gradient, scalar(grad_scale, IN_MEMORY) + tl.zeros_like(gradient))
    return gradient


@triton.jit
def allowed(found_inf):
    """Whether results may be written: where nothing was found, or nobody looked."""
    allow = True
    if found_inf is not None:
        allow = tl.load(found_inf) == 0
    return allow


@triton.jit
def descent(value, gradient, weight_decay, MAXIMIZE: tl.constexpr):
    """D = ±gradient + weight_decay · value; a decay of None adds nothing, not even inf · 0."""
    direction = -gradient if MAXIMIZE else gradient
    if weight_decay is not None:
        direction += scalar(weight_decay, False) * value
    return direction


@triton.jit
def adagrad(value, direction, total, rate, eps):
    """The parameter and its accumulator after a step along ``direction``, in float32.

    Root and division are rounded as IEEE 754 has it, which ``tl.sqrt`` and ``/`` are not.
    """
    total += direction * direction
    return value - tl.div_rn(rate * direction, tl.sqrt_rn(total) + eps), total


def scale_or_none(grad_scale: float | Tensor) -> tuple[Any, bool]:
    """A gradient scale as kernels take it, and whether they find it in memory."""
    if not isinstance(grad_scale, Tensor) and grad_scale == 1:
        return None, False
    return plain(grad_scale)


def decay_or_none(weight_decay: float) -> float | None:
    """How the kernels take a weight decay."""
    return float(weight_decay) if weight_decay else None


def plain(value: float | Tensor) -> tuple[Any, bool]:
    """A scalar as kernels take it, and whether they find it in memory.

    Numbers become floats first: Triton compiles anew for the integer 1.
    """
    return (value, True) if isinstance(value, Tensor) else (float(value), False)
