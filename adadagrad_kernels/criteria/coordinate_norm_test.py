"""The norm test of every coordinate by itself, because AdaGrad scales each by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from adadagrad_kernels.criteria.decision import Decision, check_constant, decide, keep_size
from adadagrad_kernels.shards import whole
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(frozen=True)
class CoordinateNormTest:
    r"""Holds when every coordinate of the gradient passes the norm test for itself.

    .. math::
        \frac{\mathrm{Var}_i(g_{ij})}{b} \le \eta^2 \bar g_j^2 \text{ for all } j, \qquad
        T = \max_j \frac{\mathrm{Var}_i(g_{ij})}{\eta^2 \bar g_j^2}

    (Lau, Liu, Kolar, arXiv 2402.11215, where it gives coordinate-wise expected strong growth).
    Coordinates whose mean is almost zero ask for batches without bound. So those with
    :math:`|\bar g_j| \le` ``threshold`` are left out, and ``quantile`` replaces the maximum: the
    test need only hold for that share of the others. If none is left, the size is kept: T = b.

    Attributes:
        eta: finite and greater than 0, usually below 1. A smaller one makes larger batches.
        threshold: finite, at least 0.
        quantile: greater than 0, at most 1; 1 is the maximum. T is one of the coordinates' values,
            the smallest that is not exceeded by this share of them.

    Raises:
        ValueError: for other values; when called, for a batch of one.
        MissingStatisticError: when called, where the source did not measure the variance.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.criteria import CoordinateNormTest
        >>> from adadagrad_kernels.statistics import backward_with_statistics
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> batch = backward_with_statistics(
        ...     model,
        ...     lambda output, targets: (output * targets).mean() / model.weight.detach().sum(),
        ...     torch.ones(2, 1),
        ...     torch.tensor([[1.0], [3.0]]),
        ...     variance=True,
        ... )
        >>> round(CoordinateNormTest(eta=0.5)(batch).batch_size, 3)
        2.0
    """

    eta: float
    threshold: float = 1e-6
    quantile: float = 1.0
    name = "coordinate_norm_test"
    needs_variance = True
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"eta": "smaller"}
    no_interval: ClassVar[str] = (
        "the spread of a variance needs the third and fourth moments of every coordinate, which no "
        "source measures, and a maximum has no jackknife"
    )

    def __post_init__(self) -> None:
        check_constant("eta", self.eta)
        if not 0.0 <= self.threshold < math.inf:
            raise ValueError(f"threshold must be a finite number >= 0, got {self.threshold}")
        if not 0.0 < self.quantile <= 1.0:
            raise ValueError(f"quantile must be in (0, 1], got {self.quantile}")

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch."""
        variances, mean = statistics.require_variance(), statistics.require_mean_gradient()
        if not statistics.is_finite:
            return decide(self.name, statistics, {"eta": math.nan}, {"eta": self.eta})
        found = [self._ratios(variance, mean[name]) for name, variance in variances.items()]
        ratios = torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device="cpu")
        if statistics.stages is not None:
            ratios = statistics.stages.concatenated(ratios)
        if not len(ratios):
            return keep_size(self.name, statistics, "eta")
        rank = max(1, math.ceil(self.quantile * len(ratios)))
        largest = ratios.max() if self.quantile == 1.0 else ratios.kthvalue(rank).values
        return decide(self.name, statistics, {"eta": largest.item()}, {"eta": self.eta})

    def _ratios(self, variance: Tensor, mean: Tensor) -> Tensor:
        """Var_j / mean_j² of the coordinates above the threshold, in float64."""
        variance, mean = whole(variance), whole(mean)
        tested = mean.abs() > self.threshold
        return variance[tested].double() / mean[tested].double().square()
