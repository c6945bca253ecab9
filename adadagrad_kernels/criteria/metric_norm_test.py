"""The norm test in the metric that the optimizer takes its steps in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import InitVar, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from adadagrad_kernels.criteria._metrics import Weights
from adadagrad_kernels.criteria.decision import (
    NEGLIGIBLE_SQ_NORM,
    Decision,
    check_constant,
    decide,
    keep_size,
)
from adadagrad_kernels.shards import whole
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(frozen=True, eq=False)
class MetricNormTest:
    r"""Holds when the mean gradient varies little, measured as the optimizer measures gradients.

    This package defines the metrics of AdaGrad and Adam; that of sign descent gives the l1 noise
    scale of arXiv 2602.03001. An optimizer with the update :math:`-\alpha D \bar g`, D diagonal,
    takes the steepest descent among steps of bounded :math:`\sum_j x_j^2 / D_j`. The dual norm
    :math:`\lVert g \rVert_D^2 = \sum_j D_j g_j^2` measures what such a step gains. So the test
    uses this norm in the condition of the norm test,
    :math:`\mathbb{E} \lVert \bar g - \nabla F \rVert^2 \le \eta^2 \lVert \nabla F \rVert^2`,
    with estimates for the expectation and for the true gradient:

    .. math::
        T = \frac{\sum_j D_j \mathrm{Var}_j}{\eta^2 \sum_j D_j \bar g_j^2}, \qquad
        D_j = \frac{1}{\sqrt{v_j} + \epsilon}

    with v AdaGrad's sum of squared gradients (``"adagrad"``) or Adam's bias-corrected average of
    them (``"adam"``), and the optimizer's epsilon. D = 1 gives ``NormTest``. Sign
    descent (``"sign"``) is the steepest descent among steps of bounded largest element, whose dual
    norm is the sum of absolute values; with :math:`\mathbb{E} |\bar g_j - \nabla_j F| \le
    \sqrt{\mathrm{Var}_j / b}`,

    .. math::
        T = \frac{\bigl( \sum_j \sqrt{\mathrm{Var}_j} \bigr)^2}
                 {\eta^2 \bigl( \sum_j |\bar g_j| \bigr)^2}.

    The state is read when the test is called: after ``optimizer.step()``, D is that of the step
    just taken. While no parameter has state, as before the first step of Adam, D is 1; later,
    parameters without state are left out, because they do not move. A factor that all D have in
    common, such as 1 / eps while AdaGrad's sums are zero, makes no difference. If the mean gradient
    vanishes (N below 1e-12, or the denominator 0), the size is kept: T = b.

    Attributes:
        eta: finite and greater than 0, usually below 1. A smaller one makes larger batches.
        metric: ``"adagrad"``, ``"adam"`` or ``"sign"``.

    Args:
        optimizer: whose state is read: torch's or this package's Adagrad; Adam or AdamW. Not for
            ``"sign"``.
        parameters: names and parameters, such as ``model.named_parameters()``, under the names of
            ``statistics.variance``. Not for ``"sign"``.

    Raises:
        ValueError: for other values; when called, for a batch of one, and for parameters or state
            that do not fit.
        MissingStatisticError: when called, where the source did not measure the variance.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.criteria import MetricNormTest
        >>> from adadagrad_kernels.statistics import backward_with_statistics
        >>> model = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
        >>> test = MetricNormTest(0.5, "adagrad", optimizer, model.named_parameters())
        >>> statistics = backward_with_statistics(
        ...     model, torch.nn.MSELoss(), torch.randn(8, 3), torch.randn(8, 1), variance=True
        ... )
        >>> optimizer.step()
        >>> test(statistics).batch_size > 0
        True
    """

    eta: float
    metric: str
    optimizer: InitVar[Optimizer | None] = None
    parameters: InitVar[Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] | None] = None
    _weights: Weights | None = field(default=None, init=False, repr=False)
    name = "metric_norm_test"
    needs_variance = True
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"eta": "smaller"}
    no_interval: ClassVar[str] = (
        "its spread needs the norm of every sample's gradient in the metric, so samples times "
        "parameters numbers"
    )

    def __post_init__(
        self,
        optimizer: Optimizer | None,
        parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] | None,
    ) -> None:
        check_constant("eta", self.eta)
        if self.metric not in ("adagrad", "adam", "sign"):
            raise ValueError(f"metric must be 'adagrad', 'adam' or 'sign', got {self.metric!r}")
        if self.metric == "sign":
            return
        if optimizer is None or parameters is None:
            lacking = "optimizer" if optimizer is None else "parameters"
            raise ValueError(
                f"metric={self.metric!r} reads the optimizer's state: pass optimizer=... and "
                f"parameters=model.named_parameters(); {lacking} is missing"
            )
        object.__setattr__(self, "_weights", Weights(self.metric, optimizer, dict(parameters)))

    @torch.no_grad()
    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch, in the metric as it is now."""
        variances, mean = statistics.require_variance(), statistics.require_mean_gradient()
        if self._weights is not None:
            self._weights.require(variances)
        if not statistics.is_finite:
            return decide(self.name, statistics, {"eta": math.nan}, {"eta": self.eta})
        noise, signal = [], []
        for name, variance in variances.items():
            variance, gradient = whole(variance), whole(mean[name])
            gradient = (gradient.to_dense() if gradient.is_sparse else gradient).double()
            if self._weights is None:
                noise.append(variance.double().sqrt().sum())
                signal.append(gradient.abs().sum())
            elif (weights := self._weights.of(name)) is not None:
                weights = whole(weights)
                noise.append((weights * variance).sum())
                signal.append((weights * gradient.square()).sum())
        over, along = _total(noise), _total(signal)
        if statistics.stages is not None:
            over, along = statistics.stages.added([over, along])
        if not along or statistics.mean_sq_norm < NEGLIGIBLE_SQ_NORM:
            return keep_size(self.name, statistics, "eta")
        ratio = over / along
        ratio = ratio * ratio if self._weights is None else ratio
        return decide(self.name, statistics, {"eta": ratio}, {"eta": self.eta})


def _total(values: list[Tensor]) -> float:
    """The sum of 0-dimensional tensors, read from their device at once."""
    return torch.stack([v.to(values[0].device) for v in values]).sum().item() if values else 0.0
