"""AdaGrad's formula and the scalars of a rule, for the kernels that update parameters."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def scalar(value, IN_MEMORY: tl.constexpr):  # type: ignore[no-untyped-def]
    """A scalar in float32, as which it takes part in the arithmetic.

    It is an argument, float64 where a compiler passed it on, or an element of device memory.
    """
    if IN_MEMORY:
        number = tl.load(value)
    else:
        number = value
    return number.to(tl.float32)


@triton.jit
def descent(value, gradient, weight_decay, MAXIMIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """d = ±gradient + weight_decay · value; a decay of None adds nothing, not even inf · 0."""
    direction = -gradient if MAXIMIZE else gradient
    if weight_decay is not None:
        direction += scalar(weight_decay, False) * value
    return direction


@triton.jit
def adagrad(value, direction, total, rate, eps):  # type: ignore[no-untyped-def]
    """The parameter and its accumulator after a step along ``direction``, in float32.

    Root and division are rounded as IEEE 754 has it, which ``tl.sqrt`` and ``/`` are not.
    """
    total += direction * direction
    return value - tl.div_rn(rate * direction, tl.sqrt_rn(total) + eps), total


def decay_or_none(weight_decay: float) -> float | None:
    """How the kernels take a weight decay."""
    return float(weight_decay) if weight_decay else None


def plain(value: float | Tensor) -> tuple[Any, bool]:
    """A scalar as kernels take it, and whether they find it in memory.

    Numbers become floats first: Triton compiles anew for the integer 1.
    """
    return (value, True) if isinstance(value, Tensor) else (float(value), False)
