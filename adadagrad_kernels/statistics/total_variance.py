"""The variance over micro-batches as the law of total variance gives it, biased upwards."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from adadagrad_kernels.statistics.record import GradientStatistics


class TotalVariance:
    r"""The biased variance of the published code, from C micro-batches of equal size.

    With means :math:`g_c` and variances :math:`v_c` (each with Bessel's correction),

    .. math::
        \mathrm{Var} = \frac{1}{C} \sum_c v_c + \frac{1}{C} \sum_c (g_c - \bar g)^2
            = \frac{1}{b} \Bigl( (b - 1) V + \sum_c v_c \Bigr)

    with V the pooled variance of all b samples. V is unbiased; the expectation of Var is
    :math:`1 + (C - 1) / b` times the variance.
    """

    def __init__(self) -> None:
        self._size = 0
        self._count = 0
        self._norms = 0.0
        self._variances: dict[str, Tensor] | None = None

    def add(self, record: GradientStatistics) -> None:
        """Count one micro-batch.

        Raises:
            ValueError: for another size than that of the first, or a single sample.
        """
        if self._count and record.batch_size != self._size:
            raise ValueError(
                f"law_of_total_variance takes micro-batches of equal size, got {record.batch_size} "
                f"samples after {self._size}: split the batch evenly, or leave the option off"
            )
        norm = record.variance_norm
        variances = record.variance
        if self._count and variances is not None and self._variances is not None:
            variances = {name: self._variances[name] + v for name, v in variances.items()}
        elif self._count:
            variances = None
        self._size, self._variances = record.batch_size, variances
        self._count += 1
        self._norms += norm

    def of(self, pooled: GradientStatistics) -> GradientStatistics:
        """The pooled record with the biased variance, without single norms, which would disagree.

        If a single record was added, the result is that record.
        """
        if self._count == 1:
            return pooled
        samples = pooled.batch_size
        norm = ((samples - 1) * pooled.variance_norm + self._norms) / samples
        variance = None
        if pooled.variance is not None and self._variances is not None:
            variance = {
                name: total.mul(samples - 1).add_(self._variances[name]).div_(samples)
                for name, total in pooled.variance.items()
            }
        return replace(
            pooled,
            sum_sq_norms=(samples - 1) * norm + samples * pooled.mean_sq_norm,
            sq_norms=None,
            variance=variance,
        )
