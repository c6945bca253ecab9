"""Averages over steps."""

from __future__ import annotations

import math

from adadagrad_kernels.settings import require_average_factor


class RunningAverage:
    r"""An exponential moving average, corrected for its start.

    .. math::
        \bar x_n = \frac{\sum_{k \le n} \beta^{n-k} x_k}{\sum_{k \le n} \beta^{n-k}}

    Args:
        beta: weight of the past, at least 0 and below 1; 0 keeps the last value alone.
        total: numerator times :math:`1 - \beta`, of an average that goes on.
        weight: denominator times :math:`1 - \beta`, of the same; below 1 at first, then about 1.

    Raises:
        ValueError: for another beta.

    Example:
        >>> from adadagrad_kernels.averages import RunningAverage
        >>> average = RunningAverage(0.5)
        >>> [average.add(value) for value in (1.0, 4.0)]  # (0.5 * 1 + 4) / 1.5
        [1.0, 3.0]
    """

    __slots__ = ("beta", "total", "weight")

    def __init__(self, beta: float, *, total: float = 0.0, weight: float = 0.0) -> None:
        require_average_factor("beta", beta)
        self.beta: float = beta
        self.total: float = total
        self.weight: float = weight

    @property
    def mean(self) -> float:
        """The average so far; NaN where nothing was added."""
        return self.total / self.weight if self.weight else math.nan

    def add(self, value: float) -> float:
        """Add a value, and return the average with it."""
        self.total = self.beta * self.total + (1.0 - self.beta) * value
        self.weight = self.beta * self.weight + (1.0 - self.beta)
        return self.mean
