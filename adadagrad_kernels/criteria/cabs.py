"""CABS: a batch that grows as the loss falls, coupled with the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch.optim import Optimizer

from adadagrad_kernels.criteria.decision import Decision, check_constant
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.settings import require_average_factor, require_numbers
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(eq=False, repr=False)
class CABS:
    r"""Coupled adaptive batch size (Balles, Romero, Hennig 2017, arXiv 1612.05086).

    .. math::
        \xi = \sum_j \Bigl( \frac{1}{b} \sum_i g_{ij}^2 - \bar g_j^2 \Bigr)
            = \frac{b - 1}{b} V_{\mathrm{norm}}, \qquad
        T = c \, \alpha \, \frac{\bar\xi}{\bar F + \epsilon}

    with the learning rate :math:`\alpha`. As in the authors' code, the variance has no Bessel's
    correction, and the moving averages of the variance (from 0) and of the loss (from 1) are not
    corrected for their start. CABS is made for SGD without momentum and for losses
    whose smallest value is about zero. The authors let the batch shrink, between 16 and 2048
    samples: the controller's ``allow_shrink``, ``batch_size`` and ``max_batch_size``. They round
    T; the controller rounds up.

    Attributes:
        lr: the learning rate, finite and greater than 0; or the optimizer, the rate of whose first
            group is then read at every decision and may be 0. It does not include the gain of a
            ``BatchSizeLR``.
        c: finite and greater than 0. A larger one makes larger batches.
        beta: factor of both averages, from 0 (none) up, below 1.
        eps: finite and greater than 0.

    Raises:
        ValueError: for other values; when called, for a batch of one or a negative loss.
        MissingStatisticError: when called, where the source did not keep the loss.

    Example:
        >>> from adadagrad_kernels.criteria import CABS
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(
        ...     batch_size=8, mean_sq_norm=2.0, sum_sq_norms=72.0, loss=0.5
        ... )
        >>> round(CABS(lr=0.5, beta=0.0)(batch).batch_size, 6)  # ξ = 72 / 8 - 2 = 7
        7.0
    """

    lr: float | Optimizer
    c: float = 1.0
    beta: float = 0.95
    eps: float = 1e-12
    _variance: float = field(default=0.0, init=False)
    _loss: float = field(default=1.0, init=False)
    name = "cabs"
    needs_variance = False
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"c": "larger"}

    def __post_init__(self) -> None:
        if not isinstance(self.lr, Optimizer):
            check_constant("lr", self.lr)
        check_constant("c", self.c)
        require_average_factor("beta", self.beta)
        check_constant("eps", self.eps)

    def __repr__(self) -> str:
        """The constants; of an optimizer its kind, since its address is another in every run."""
        lr = f"<{type(self.lr).__name__}>" if isinstance(self.lr, Optimizer) else repr(self.lr)
        return f"CABS(lr={lr}, c={self.c!r}, beta={self.beta!r}, eps={self.eps!r})"

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the averages up to this batch; what is not finite is left out of them."""
        loss = statistics.loss
        if loss is None:
            raise MissingStatisticError(
                "CABS needs the mean loss of the batch, and this record has none: "
                "PerSampleGradients and backward_with_statistics keep it; for the record of any "
                "other source add it with dataclasses.replace(statistics, loss=loss.item())"
            )
        if loss < 0.0:
            raise ValueError(
                f"CABS takes the loss as its distance from the smallest possible one, 0, and got "
                f"{loss}; accepted are losses from 0 up: add a constant to the record's loss"
            )
        size = statistics.batch_size
        variance = statistics.variance_norm * (size - 1) / size
        if not (math.isfinite(loss) and statistics.is_finite):
            return Decision(self.name, math.nan, False, {})
        self._variance = self.beta * self._variance + (1 - self.beta) * variance
        self._loss = self.beta * self._loss + (1 - self.beta) * loss
        wanted = self.c * self._rate() * self._variance / (self._loss + self.eps)
        return Decision(self.name, wanted, wanted <= size, {})

    def wants_statistics(self, samples: int) -> bool:
        """Every step's."""
        return True

    def count(self, samples: int) -> None:
        """A step that was not measured leaves the averages as they are."""

    def state_dict(self) -> dict[str, Any]:
        """The two averages."""
        return {"variance": self._variance, "loss": self._loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: for the state of something else; nothing has changed then.
        """
        saved = require_numbers("CABS", state, {"variance", "loss"})
        self._variance, self._loss = saved["variance"], saved["loss"]

    def _rate(self) -> float:
        if isinstance(self.lr, Optimizer):
            return float(self.lr.param_groups[0]["lr"])
        return self.lr
