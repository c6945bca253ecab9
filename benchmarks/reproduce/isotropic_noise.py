"""Noise of one variance in every direction: what the inner product tests read of it, exactly.

The deviations of b samples from their mean have b - 1 degrees of freedom in every direction. Along
the mean gradient and across it they are independent here, chi-squared with b - 1 and with
(b - 1)(d - 1) degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adadagrad_kernels import GradientStatistics


@dataclass(frozen=True)
class IsotropicNoise:
    """Noise whose variance is ``total``, in all directions together.

    Attributes:
        exact_tests: whether a test reads F's own gradient and the noise's own variances, and not
            those of the batch.
    """

    total: float
    generator: np.random.Generator
    exact_tests: bool = False

    def mean(self, exact: np.ndarray, batch: int) -> np.ndarray:
        """F's gradient and a Gaussian."""
        deviation = np.sqrt(self.total / len(exact) / batch)
        return exact + deviation * self.generator.standard_normal(len(exact))

    def statistics(self, exact: np.ndarray, mean: np.ndarray, batch: int) -> GradientStatistics:
        """Squared norms and inner products, by the sums of squared deviations."""
        along = float(batch - 1)
        across = along * (len(exact) - 1)
        gradient = exact
        if not self.exact_tests:
            along, across = self.generator.chisquare(along), self.generator.chisquare(across)
            gradient = mean
        variance = self.total / len(exact)
        squared = float(np.dot(gradient, gradient))
        return GradientStatistics(
            batch,
            squared,
            batch * squared + variance * (along + across),
            sum_sq_inner_products=squared * (batch * squared + variance * along),
        )
