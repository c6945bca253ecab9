"""How far a result may be from the exact one: the only place with tolerances.

Everything is in units of the epsilon of a dtype. Sums are kept in the accumulation dtype (float32
for bfloat16 and float16 too, whose values convert exactly), so what an op returns is judged by that
dtype, and only tensors that are stored back into a narrower dtype by the narrower one.

Rounding errors of a sum of n terms behave like a random walk when the terms have random signs, and
like ``sqrt(n)`` times the mean magnitude of a term when they have the same: every partial sum of
size k contributes ``epsilon / 2 * k``, and ``sqrt(sum k^2) / n = sqrt(n / 3)``. Hence each bound is
``SAFETY * epsilon * sqrt(n) * mean |term|``, which a sum in a bad order still meets and an error of
the formula does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAFETY = 4.0

#: Adjacent features that a kernel may sum before it goes over to float64.
RUN = 4096

Array = np.ndarray


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def accumulation_epsilon(dtype: torch.dtype) -> float:
    return torch.finfo(accumulation_dtype(dtype)).eps


def smallest(dtype: torch.dtype) -> float:
    """The smallest positive number of the dtype, a denormal: its spacing around zero."""
    return torch.finfo(dtype).tiny * torch.finfo(dtype).eps


def extended(tensor: Tensor) -> Array:
    """The exact values in extended precision."""
    return tensor.detach().double().numpy().astype(np.longdouble)


def mean_tolerance(grads: Tensor) -> Array:
    """A sum of b terms."""
    size = np.abs(extended(grads))
    samples = len(size)
    epsilon = accumulation_epsilon(grads.dtype)
    floor = smallest(accumulation_dtype(grads.dtype))
    return SAFETY * epsilon * np.sqrt(samples) * size.mean(0) + SAFETY * floor


def variance_tolerance(grads: Tensor, variance: Array) -> Array:
    """A sum of b squares; what the rounding of means adds; and the square of the mean's error.

    Where groups of samples are pooled, each group's mean is rounded by ``epsilon * |mean|`` and
    meets the difference of the groups' means, some ``sqrt(variance / b)``. The error of the mean
    itself enters squared, because exact deviations add up to zero. This is what a difference of
    squares cannot meet: there the squared mean enters, times epsilon.
    """
    size = np.abs(extended(grads))
    samples = len(size)
    epsilon = accumulation_epsilon(grads.dtype)
    floor = torch.finfo(accumulation_dtype(grads.dtype)).tiny
    summing = epsilon * np.sqrt(samples) * variance
    pooling = epsilon * size.mean(0) * np.sqrt(variance / samples)
    return SAFETY * (summing + pooling) + 2 * mean_tolerance(grads) ** 2 + floor


def _row_sum_epsilon(features: int, dtype: torch.dtype) -> float:
    """Relative error of a sum over features: in runs first, then in float64."""
    runs = accumulation_epsilon(dtype) * np.sqrt(min(features, RUN))
    return SAFETY * float(runs + torch.finfo(torch.float64).eps * np.sqrt(features))


def sq_norm_tolerance(values: Array, dtype: torch.dtype) -> Array:
    """A sum of D squares along the last axis; squares of tiny numbers may underflow."""
    squares = (values**2).sum(-1)
    floor = values.shape[-1] * torch.finfo(accumulation_dtype(dtype)).tiny
    return _row_sum_epsilon(values.shape[-1], dtype) * squares + floor


def inner_product_tolerance(grads: Tensor, mean: Array) -> Array:
    """A sum of D products, and the error of the mean in each."""
    size = np.abs(extended(grads))
    relative = _row_sum_epsilon(size.shape[1], grads.dtype)
    floor = size.shape[1] * torch.finfo(accumulation_dtype(grads.dtype)).tiny
    return relative * (size @ np.abs(mean)) + size @ mean_tolerance(grads) + floor


def direction_tolerance(grad: Array, decay: Array, dtype: torch.dtype) -> Array:
    """``grad / scale + weight_decay * param``: a division, a product and a sum.

    The floor is the spacing of denormals, where a small gradient is divided by a large scale.
    """
    floor = SAFETY * smallest(accumulation_dtype(dtype))
    return SAFETY * accumulation_epsilon(dtype) * (np.abs(grad) + np.abs(decay)) + floor


def stored_tolerance(value: Array, error: Array, dtype: torch.dtype) -> Array:
    """A value with an error of its own, rounded to the dtype that keeps it."""
    return error + torch.finfo(dtype).eps * np.abs(value) + smallest(dtype)


def update_tolerance(update: Array, relative: Array, dtype: torch.dtype) -> Array:
    """``lr * d / (sqrt(v) + eps)`` where d has a relative error; a handful of roundings."""
    return np.abs(update) * (2 * relative + 2 * SAFETY * accumulation_epsilon(dtype))


def assert_within(name: str, actual: Tensor, expected: Array, tolerance: Array) -> None:
    """Elementwise comparison, where what is not finite must meet what is not finite.

    An infinity may become NaN, as it does when two of them meet on the way, but never a number.
    """
    given = extended(actual)
    assert given.shape == expected.shape, f"{name}: shape {given.shape}, not {expected.shape}"
    with np.errstate(invalid="ignore"):
        error = np.abs(given - expected)
        lost = np.isfinite(given) != np.isfinite(expected)
        wrong = lost | (np.isfinite(expected) & ~(error <= tolerance))
    if wrong.any():
        worst = np.unravel_index(np.argmax(np.where(wrong, error, -1)), wrong.shape)
        allowed = np.broadcast_to(tolerance, wrong.shape)[worst]
        raise AssertionError(
            f"{name}: {wrong.sum()} of {wrong.size} elements are off; at {worst}: "
            f"got {given[worst]:.9g}, expected {expected[worst]:.9g}, allowed ± {allowed:.2g}"
        )
