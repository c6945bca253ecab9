"""Arithmetic of batch sizes: multiples, and the step from a suggestion to a size."""

from __future__ import annotations

import math

from adadagrad_kernels.settings import require_int

#: Relative error that arithmetic in floating point may have left in a size.
_ROUNDING = 1e-12


def require_multiple(name: str, value: object, of: int) -> int:
    """Returns ``value`` as an int.

    Raises:
        ValueError: unless it is a positive multiple of ``of``, naming the nearest ones.
    """
    size = require_int(name, value, at_least=1)
    below = size - size % of
    if below != size:
        nearest = f"{below} or {below + of}" if below else f"{of}"
        raise ValueError(f"{name} {size} is not a multiple of round_to {of}; nearest: {nearest}")
    return size


def round_up(size: float, to: int) -> int:
    """The smallest multiple that is not below a size, up to the rounding of the size itself."""
    return -(-math.ceil(size - _ROUNDING * size) // to) * to


def next_size(
    suggestion: float,
    size: int,
    *,
    low: int,
    high: int,
    round_to: int,
    growth_cap: float | None,
    hysteresis: float,
) -> int:
    """The size that a suggestion leads to.

    Args:
        suggestion: T, which may be infinite.
        size: the size now.
        low: the smallest size allowed.
        high: the largest.
        round_to: sizes are multiples of it, and so are ``low`` and ``high``.
        growth_cap: the largest factor of one growth, or None.
        hysteresis: suggestions within this factor of the size change nothing.
    """
    if size / hysteresis <= suggestion <= size * hysteresis:
        return size
    if growth_cap is not None:
        limit = int(size * growth_cap)
        high = min(high, max(limit - limit % round_to, size + round_to))
    if suggestion >= high:  # also an infinite one, which has no ceiling
        return high
    return max(low, round_up(suggestion, round_to))
