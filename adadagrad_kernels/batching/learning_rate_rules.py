"""How the learning rate changes with the batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from adadagrad_kernels.averages import RunningAverage
from adadagrad_kernels.ranks import require_all_ranks
from adadagrad_kernels.settings import require_factor, require_int, require_keys

if TYPE_CHECKING:
    from adadagrad_kernels.statistics import GradientStatistics


class LearningRateRule(Protocol):
    """The factor for a learning rate that was tuned at another batch size."""

    def gain(self, growth: float) -> float:
        """The factor for a batch that is ``growth`` times the first one."""

    def observe(self, statistics: GradientStatistics) -> None:
        """Take note of a step's statistics."""


@dataclass(frozen=True)
class PowerRule:
    r"""The rate grows as a power of the batch: :math:`(b / b_0)^{p}`.

    ``PowerRule(1.0)`` is linear scaling, of SGD and optionally of DiveBatch (arXiv 2509.16173),
    ``PowerRule(0.5)`` the square root, of adaptive methods. A negative power is a rate that falls.

    Attributes:
        power: p, finite.

    Raises:
        ValueError: for another power.

    Example:
        >>> from adadagrad_kernels.batching import PowerRule
        >>> PowerRule(0.5).gain(4.0)
        2.0
    """

    power: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.power):
            raise ValueError(f"power must be finite, got {self.power}")

    def gain(self, growth: float) -> float:
        """The power of the growth."""
        return float(growth**self.power)

    def observe(self, statistics: GradientStatistics) -> None:
        """Nothing."""


def per_doubling(factor: float) -> PowerRule:
    r"""The rule that multiplies the rate by a factor whenever the batch doubles.

    0.75 is AdaBatch's (Devarakonda, Naumov, Garland, arXiv 1712.02029); :math:`1/\sqrt 2`, where a
    schedule would have halved the rate of an Adam-like optimizer, is Seesaw's (arXiv 2510.14717).

    Raises:
        ValueError: unless the factor is finite and above 0.

    Example:
        >>> from adadagrad_kernels.batching import per_doubling
        >>> round(per_doubling(0.75).gain(8.0), 6)  # of three doublings
        0.421875
    """
    return PowerRule(math.log2(require_factor("factor", factor, above=0.0)))


class AdaScale:
    r"""AdaScale's gain (Johnson, Agrawal, Gu, Guestrin 2020): how much a larger batch is worth.

    With :math:`\sigma^2` the trace of the covariance of the first batch's mean gradient,
    :math:`\mu^2` the squared norm of the true gradient, and a batch S times the first,

    .. math:: r = \frac{\sigma^2 + \mu^2}{\sigma^2 / S + \mu^2}, \qquad 1 \le r \le S:

    S where noise dominates, 1 where there is none. Both are running averages of unbiased
    estimates, :math:`\sigma^2 = V_{\mathrm{norm}} / b_0` and
    :math:`\mu^2 = N - V_{\mathrm{norm}} / b`, the first at least 1e-6 and the second at least 0.
    ``progress`` adds up the gains: a schedule made for the first batch size counts it instead of
    steps.

    Args:
        batch_size: :math:`b_0`, for which the learning rate was tuned.
        beta: weight of the past in the averages.
        square_root: the rate is multiplied by :math:`\sqrt r`, for Adam-like optimizers.

    Attributes:
        progress: scale-invariant iterations so far, the sum of the gains r of the observed steps.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> from adadagrad_kernels.batching import AdaScale
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> rule = AdaScale(batch_size=8)
        >>> rule.observe(GradientStatistics(16, mean_sq_norm=2.0, sum_sq_norms=272.0))  # V = 16
        >>> rule.gain(2.0)  # (2 + 1) / (2/2 + 1)
        1.5
    """

    def __init__(self, batch_size: int, *, beta: float = 0.999, square_root: bool = False) -> None:
        self.batch_size: int = require_int("batch_size", batch_size, at_least=1)
        self._variance, self._signal = RunningAverage(beta), RunningAverage(beta)
        self.beta: float = beta
        self.square_root: bool = square_root
        self.progress: float = 0.0

    def __repr__(self) -> str:
        return (
            f"AdaScale(batch_size={self.batch_size}, beta={self.beta}, "
            f"square_root={self.square_root})"
        )

    def gain(self, growth: float) -> float:
        """r, or its root; 1 before anything was observed."""
        ratio = self._ratio(growth)
        return math.sqrt(ratio) if self.square_root else ratio

    def observe(self, statistics: GradientStatistics) -> None:
        """Average a step's statistics in, unless they are not finite or of one sample.

        Raises:
            ValueError: for statistics of one rank, where several processes train.
        """
        require_all_ranks(statistics.agreement, "a learning rate")
        samples = statistics.batch_size
        if samples >= 2 and statistics.is_finite:
            variance = statistics.variance_norm
            self._variance.add(variance / self.batch_size)
            self._signal.add(statistics.mean_sq_norm - variance / samples)
        self.progress += self._ratio(samples / self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, as plain JSON types."""
        return {
            "progress": self.progress,
            "averages": [self._variance.total, self._signal.total, self._signal.weight],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``."""
        require_keys("AdaScale", state, self.state_dict())
        *totals, weight = map(float, state["averages"])
        self.progress = float(state["progress"])
        self._variance, self._signal = (
            RunningAverage(self.beta, total=total, weight=weight) for total in totals
        )

    def _ratio(self, growth: float) -> float:
        if not self._signal.weight:
            return 1.0
        variance, signal = max(self._variance.mean, 1e-6), max(self._signal.mean, 0.0)
        return (variance + signal) / (variance / growth + signal)
