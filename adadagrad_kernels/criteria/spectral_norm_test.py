"""The norm test as spectral descent measures gradients."""

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
class SpectralNormTest:
    r"""Holds when the mean gradient varies little for spectral descent, such as Muon.

    Steps whose matrices W all have bounded spectral norm are steepest along the orthogonal factors
    of the gradients. The dual norm, which measures what such a step gains, is the sum of their
    nuclear norms. With :math:`S_W` the covariance of the samples' gradients of W over its shorter
    side, the variation of the mean of b samples is at most
    :math:`\sum_W \mathrm{tr} \sqrt{S_W} / \sqrt{b}` in that norm (``SpectralNoise``), and

    .. math::
        T = \frac{\bigl( \sum_W \mathrm{tr} \sqrt{S_W} \bigr)^2}
                 {\eta^2 \bigl( \sum_W \lVert \bar g_W \rVert_* \bigr)^2}.

    T eta^2 is a noise scale: arXiv 2602.03001 has one for spectral descent in this dual norm, and
    measures it by the gradients of ranks. The bound by S is ours. A matrix of one row gives
    the Euclidean norms of ``NormTest``. With N below 1e-12 or gradients of zero, the size is kept:
    T = b.

    Attributes:
        eta: finite and greater than 0, usually below 1. A smaller one makes larger batches.

    Raises:
        ValueError: for another eta.
        MissingStatisticError: when called, where the source did not measure matrices.

    Example:
        >>> from adadagrad_kernels.criteria import SpectralNormTest
        >>> from adadagrad_kernels.statistics import GradientStatistics, SpectralNoise
        >>> batch = GradientStatistics(
        ...     batch_size=8,
        ...     mean_sq_norm=2.0,
        ...     sum_sq_norms=72.0,
        ...     spectral={"weight": SpectralNoise(noise=6.0, signal=2.0)},
        ... )
        >>> SpectralNormTest(eta=0.5)(batch).batch_size
        36.0
    """

    eta: float
    name = "spectral_norm_test"
    needs_variance = False
    needs_inner_products = False
    matrixwise = True
    larger_batches: ClassVar[Mapping[str, str]] = {"eta": "smaller"}
    no_interval: ClassVar[str] = (
        "its spread needs the matrices without each micro-batch in turn, whose gradients are not "
        "kept"
    )

    def __post_init__(self) -> None:
        check_constant("eta", self.eta)

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch."""
        matrices = statistics.require_spectral().values()
        noise = math.fsum(matrix.noise for matrix in matrices)
        signal = math.fsum(matrix.signal for matrix in matrices)
        if statistics.is_finite and (not signal or statistics.mean_sq_norm < NEGLIGIBLE_SQ_NORM):
            return keep_size(self.name, statistics, "eta")
        ratio = math.nan if not statistics.is_finite else noise / signal
        return decide(self.name, statistics, {"eta": ratio * ratio}, {"eta": self.eta})
