"""SimiGrad: the cosine between the gradients of two halves of the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from adadagrad_kernels.criteria.decision import Decision, keep_size
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(frozen=True)
class GradientSimilarity:
    r"""Holds if the mean gradients of two halves of the batch are similar enough (SimiGrad).

    .. math::
        c = \cos(\bar g_A, \bar g_B), \qquad
        T = \begin{cases}
            \max(b + 1, \lfloor 1.1\, b \rfloor) & c < \mathrm{target} \\
            \min(b - 1, \lfloor 0.9\, b \rfloor) & c > \mathrm{target},\ b > 1
        \end{cases}

    (Qin et al. 2021; the steps are those of their code). The batch shrinks only with the
    controller's ``allow_shrink``, for which the method is made. By expectation c is about
    :math:`|G|^2 / (|G|^2 + 2 \operatorname{tr}\Sigma / b)`.

    c is the record's ``halves_cosine``: that of two equally large ``MicroBatchGradients``, or of
    the last ``merge`` of two equally large records. With ``averaged`` every record will do:
    numerator and denominator are then averaged over all ways to halve the batch, so c does not
    depend on a single halving,

    .. math::
        c = \frac{\operatorname{mean} \langle \bar g_A, \bar g_B \rangle}
                 {\operatorname{mean} \tfrac12 (|\bar g_A|^2 + |\bar g_B|^2)}
          = \frac{N - V_{\mathrm{norm}} / b}{N + V_{\mathrm{norm}} / b}.

    If the gradients vanish, c is not defined and the size is kept: T = b.

    Attributes:
        target: greater than -1 and below 1; theirs for CIFAR is 0.2. A larger one makes larger
            batches.
        averaged: whether to average over all ways to halve the batch.

    Raises:
        ValueError: for another target; when called with ``averaged``, for a batch of one.
        MissingStatisticError: when called, where no halves were measured.

    Example:
        >>> from adadagrad_kernels.criteria import GradientSimilarity
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(
        ...     batch_size=40, mean_sq_norm=1.0, sum_sq_norms=80.0, halves_cosine=0.1
        ... )
        >>> GradientSimilarity(target=0.2)(batch).batch_size
        44.0
    """

    target: float
    averaged: bool = False
    name = "gradient_similarity"
    needs_variance = False
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"target": "larger"}

    def __post_init__(self) -> None:
        if not -1.0 < self.target < 1.0:
            raise ValueError(f"target must be greater than -1 and below 1, got {self.target}")

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch."""
        cosine, size = self.cosine(statistics), statistics.batch_size
        if not statistics.is_finite:
            return Decision(self.name, math.nan, False, {})
        if math.isnan(cosine):
            return keep_size(self.name, statistics)
        wanted = size
        if cosine < self.target:
            wanted = max(size + 1, size * 11 // 10)
        elif cosine > self.target and size > 1:
            wanted = min(size - 1, size * 9 // 10)
        return Decision(self.name, float(wanted), wanted <= size, {})

    def cosine(self, statistics: GradientStatistics) -> float:
        """c, NaN where it is not defined.

        Raises:
            MissingStatisticError: where no halves were measured.
        """
        if self.averaged:
            noise = statistics.variance_norm / statistics.batch_size
            both = statistics.mean_sq_norm + noise
            return (statistics.mean_sq_norm - noise) / both if both else math.nan
        if statistics.halves_cosine is None:
            raise MissingStatisticError(
                "the cosine of the batch's two halves was not measured; MicroBatchGradients "
                "measures it for two micro-batches of equal size, and GradientStatistics.merge for "
                "two records of equal size; GradientSimilarity(..., averaged=True) does without"
            )
        return statistics.halves_cosine
