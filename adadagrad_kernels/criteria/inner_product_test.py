"""The inner-product tests: the variance along the mean gradient, and that orthogonal to it."""

from __future__ import annotations

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

_NO_INTERVAL = (
    "V_ip turns with the mean gradient, so its spread needs covariance_products of the whole "
    "gradient, without smoothing; layer_statistics measures them with statistics(losses=..., "
    "covariance_products=True), PerSampleGradients with covariance_products=True"
)


@dataclass(frozen=True)
class InnerProductTest:
    r"""Holds when the per-sample gradients' component along their mean varies little.

    .. math::
        \frac{V_{\mathrm{ip}}}{b} \le \vartheta^2 N^2, \qquad
        T = \frac{V_{\mathrm{ip}}}{\vartheta^2 N^2}

    (Bollapragada, Byrd, Nocedal 2018, eq. 2.6; for AdaGrad: Lau, Liu, Kolar, arXiv 2402.11215).
    The inner products are those of the whole gradient, all parameters together. With N below 1e-12
    the size is kept: T = b.

    Attributes:
        theta: finite and greater than 0, usually below 1. A smaller one makes larger batches.
        layerwise: sum the V_ip of every single parameter, as the code of Lau, Liu, Kolar does.
            This ignores how the parameters' inner products vary together, which can make T larger
            or smaller. For comparisons with that code.

    Raises:
        ValueError: for another theta; when called, for a batch of one.
        MissingStatisticError: when called, where the source did not measure inner products, or,
            with ``layerwise``, did not keep those of the parameters.

    Example:
        >>> from adadagrad_kernels.criteria import InnerProductTest
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(
        ...     batch_size=2, mean_sq_norm=1.0, sum_sq_norms=4.0, sum_sq_inner_products=3.0
        ... )
        >>> InnerProductTest(theta=0.5)(batch).batch_size
        4.0
    """

    theta: float
    layerwise: bool = False
    name = "inner_product_test"
    needs_variance = False
    needs_inner_products = True
    larger_batches: ClassVar[Mapping[str, str]] = {"theta": "smaller"}
    no_interval: ClassVar[str] = _NO_INTERVAL

    def __post_init__(self) -> None:
        check_constant("theta", self.theta)

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch."""
        (variance, _), signal = _variances(statistics, self.layerwise), statistics.mean_sq_norm
        if signal < NEGLIGIBLE_SQ_NORM:
            return keep_size(self.name, statistics, "theta")
        ratios = {"theta": variance / signal / signal}
        return decide(self.name, statistics, ratios, {"theta": self.theta})

    def interval(self, statistics: GradientStatistics, level: float) -> tuple[float, float] | None:
        """Of T at a level of confidence, for a record with ``covariance_products``; else None."""
        if not _has_interval(statistics, self.layerwise):
            return None
        low, high = statistics.ratio_estimates[0].interval(level)
        return low / self.theta / self.theta, high / self.theta / self.theta


@dataclass(frozen=True)
class AugmentedInnerProductTest:
    r"""The inner-product test, and a bound on the variance orthogonal to the mean gradient.

    .. math::
        \frac{V_{\mathrm{ip}}}{b} \le \vartheta^2 N^2 \quad\text{and}\quad
        \frac{V_{\mathrm{orth}}}{b} \le \nu^2 N, \qquad
        T = \max\Bigl( \frac{V_{\mathrm{ip}}}{\vartheta^2 N^2},
                       \frac{V_{\mathrm{orth}}}{\nu^2 N} \Bigr)

    (Bollapragada, Byrd, Nocedal 2018, eqs. 2.6 and 3.3, who use theta = 0.9 and nu = 5.84; for
    AdaGrad: Lau, Liu, Kolar, arXiv 2402.11215). With N below 1e-12 the size is kept: T = b.

    Attributes:
        theta: finite and greater than 0, usually below 1. A smaller one makes larger batches.
        nu: finite and greater than 0. A smaller one makes larger batches.
        layerwise: sum the V_ip and V_orth of every single parameter, as the code of Lau, Liu,
            Kolar does. The sum of V_ip can be larger or smaller than V_ip; that of V_orth is at
            most V_orth, because more directions count as along the mean. For comparisons with
            that code.

    Raises:
        ValueError: for another theta or nu; when called, for a batch of one.
        MissingStatisticError: when called, where the source did not measure inner products, or,
            with ``layerwise``, did not keep those of the parameters.

    Example:
        >>> from adadagrad_kernels.criteria import AugmentedInnerProductTest
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(
        ...     batch_size=2, mean_sq_norm=1.0, sum_sq_norms=9.0, sum_sq_inner_products=3.0
        ... )
        >>> AugmentedInnerProductTest(theta=0.5, nu=1.0)(batch).batch_size
        6.0
    """

    theta: float
    nu: float
    layerwise: bool = False
    name = "augmented_inner_product_test"
    needs_variance = False
    needs_inner_products = True
    larger_batches: ClassVar[Mapping[str, str]] = {"theta": "smaller", "nu": "smaller"}
    no_interval: ClassVar[str] = _NO_INTERVAL

    def __post_init__(self) -> None:
        check_constant("theta", self.theta)
        check_constant("nu", self.nu)

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch."""
        along, across = _variances(statistics, self.layerwise)
        signal = statistics.mean_sq_norm
        if signal < NEGLIGIBLE_SQ_NORM:
            return keep_size(self.name, statistics, "theta", "nu")
        ratios = {"theta": along / signal / signal, "nu": across / signal}
        return decide(self.name, statistics, ratios, {"theta": self.theta, "nu": self.nu})

    def interval(self, statistics: GradientStatistics, level: float) -> tuple[float, float] | None:
        """Of T, from the larger of both parts' ends; None without ``covariance_products``.

        Where the parts ask for the same size it holds T less often than the level says, by at most
        half of what the level leaves out.
        """
        if not _has_interval(statistics, self.layerwise):
            return None
        parts = zip(statistics.ratio_estimates, (self.theta, self.nu), strict=True)
        ends = [[end / c / c for end in each.interval(level)] for each, c in parts]
        return max(low for low, _ in ends), max(high for _, high in ends)


def _has_interval(statistics: GradientStatistics, layerwise: bool) -> bool:
    known = statistics.covariance_products is not None and not layerwise
    return known and statistics.mean_sq_norm >= NEGLIGIBLE_SQ_NORM


def _variances(statistics: GradientStatistics, layerwise: bool) -> tuple[float, float]:
    """V_ip and V_orth, of the whole gradient or summed over the parameters."""
    parts = [statistics]
    if layerwise and statistics.sum_sq_inner_products is not None:
        parts = list(statistics.require_by_parameter().values())
    return (
        sum(part.inner_product_variance for part in parts),
        sum(part.orthogonal_variance for part in parts),
    )
