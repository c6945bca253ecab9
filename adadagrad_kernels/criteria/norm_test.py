"""The norm test: the variance of the mean gradient against its squared norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from adadagrad_kernels.criteria.decision import (
    NEGLIGIBLE_SQ_NORM,
    Decision,
    check_constant,
    decide,
    keep_size,
)
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(frozen=True)
class NormTest:
    r"""Holds when the mean gradient's variance is at most eta² times its squared norm.

    .. math::
        \frac{V_{\mathrm{norm}}}{b} \le \eta^2 N, \qquad
        T = \frac{V_{\mathrm{norm}}}{\eta^2 N}

    (Byrd, Chin, Nocedal, Wu 2012, eq. 3.9; for AdaGrad: Lau, Liu, Kolar, arXiv 2402.11215). With
    N below 1e-12 the size is kept: T = b. Where noise dominates, N is about V_norm / b, so one
    decision multiplies the batch by at most about 1 / eta².

    Attributes:
        eta: finite and greater than 0, usually below 1. A smaller one makes larger batches.

    Raises:
        ValueError: for another eta; when called, for a batch of one.

    Example:
        >>> from adadagrad_kernels.criteria import NormTest
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(batch_size=8, mean_sq_norm=2.0, sum_sq_norms=72.0)
        >>> decision = NormTest(eta=0.5)(batch)
        >>> decision.batch_size, decision.passed, decision.smallest_constants
        (16.0, False, {'eta': 0.7071067811865476})
    """

    eta: float
    name = "norm_test"
    needs_variance = False
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"eta": "smaller"}

    def __post_init__(self) -> None:
        check_constant("eta", self.eta)

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch."""
        variance, signal = statistics.variance_norm, statistics.mean_sq_norm
        if signal < NEGLIGIBLE_SQ_NORM:
            return keep_size(self.name, statistics, "eta")
        return decide(self.name, statistics, {"eta": variance / signal}, {"eta": self.eta})

    def size_at(self, noise_scale: float, batch_size: int) -> float:
        """T of a batch of b samples whose noise scale is V / |G|², with N = |G|² + V / b."""
        if math.isinf(noise_scale):
            return batch_size / self.eta / self.eta
        return noise_scale / (1.0 + noise_scale / batch_size) / self.eta / self.eta
