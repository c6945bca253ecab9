"""DiveBatch: the diversity of the gradients of a whole epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from adadagrad_kernels.criteria.decision import Decision, check_constant, not_yet
from adadagrad_kernels.settings import require_entries, require_int, require_numbers
from adadagrad_kernels.shards import whole
from adadagrad_kernels.stages import Stages
from adadagrad_kernels.statistics import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm


@dataclass(eq=False)
class GradientDiversity:
    r"""Asks for a multiple of the gradient diversity of a whole epoch (DiveBatch).

    .. math::
        \Delta = \frac{\sum_i \lVert g_i \rVert^2}{\bigl\lVert \sum_i g_i \bigr\rVert^2}, \qquad
        T = \delta \, n \, \Delta

    over the n samples of an epoch, while the parameters move (Chen, Wang, Sundaram,
    arXiv 2509.16173; the diversity is that of Yin et al. 2018). It decides once in
    ``epochs_between`` epochs, at the end of the last one. Only in that epoch it wants
    statistics and adds up gradients; their sum takes the memory of one more ``.grad``, in float32
    or wider. In all other steps the size is kept: T = b.

    An epoch is ``dataset_size`` samples, counted over the steps; a step that reaches into the next
    epoch belongs to the one where it begins. If some steps of the epoch are not measured, n in T is
    the number of samples that were; if the last one is not, the next measured step is added
    and decides. A diversity that is not finite asks for the largest batch, as in the authors'
    code: T is infinite. The controller does not pass on steps with NaN or infinity, which count as
    not measured.

    The criterion does not rescale the learning rate with the batch, as the authors do.

    Attributes:
        delta: finite and greater than 0; theirs are 0.1 for CIFAR-10 and 0.01 for CIFAR-100. A
            larger one makes larger batches.
        dataset_size: samples of an epoch, at least 1.
        epochs_between: at least 1; 20 in their configurations.

    Raises:
        ValueError: for other values; when called, for other parameters than in the steps before.
        MissingStatisticError: when called, where the source did not keep the mean gradient.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.criteria import GradientDiversity
        >>> from adadagrad_kernels.ops import batch_moments
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> rule = GradientDiversity(delta=2.0, dataset_size=4)
        >>> for rows in torch.eye(4).split(2):
        ...     moments = batch_moments(rows, variance=False, inner_products=False)
        ...     decision = rule(GradientStatistics.from_moments({"weight": moments}))
        ...     print(decision.batch_size)
        2.0
        8.0
    """

    delta: float
    dataset_size: int
    epochs_between: int = 1
    _position: int = field(default=0, init=False, repr=False)
    _due: bool = field(default=False, init=False, repr=False)
    _samples: int = field(default=0, init=False, repr=False)
    _sum_sq_norms: float = field(default=0.0, init=False, repr=False)
    _gradient: dict[str, Tensor] | None = field(default=None, init=False, repr=False)
    name = "gradient_diversity"
    needs_variance = False
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"delta": "larger"}

    def __post_init__(self) -> None:
        check_constant("delta", self.delta)
        self.dataset_size = require_int("dataset_size", self.dataset_size, at_least=1)
        self.epochs_between = require_int("epochs_between", self.epochs_between, at_least=1)

    @torch.no_grad()
    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Add the batch to the sums, and decide at the end of a period."""
        if self.wants_statistics(statistics.batch_size):
            self._add(statistics)
        self.count(statistics.batch_size)
        if not (self._due and self._samples):
            return not_yet(self.name, statistics)
        size = self.delta * self._samples * self._diversity(statistics.stages)
        self._due, self._samples, self._sum_sq_norms, self._gradient = False, 0, 0.0, None
        size = size if math.isfinite(size) else math.inf
        return Decision(self.name, size, size <= statistics.batch_size, {})

    def wants_statistics(self, samples: int) -> bool:
        """In the last epoch of a period, and where a decision is due."""
        return self._due or self._position >= (self.epochs_between - 1) * self.dataset_size

    def count(self, samples: int) -> None:
        """Take note of a step of ``samples`` samples that was not measured."""
        period = self.epochs_between * self.dataset_size
        self._due |= self._position + samples >= period
        self._position = (self._position + samples) % period

    def state_dict(self) -> dict[str, Any]:
        """Where in the period it is, and the sums so far, the gradient's as copies."""
        gradient = self._gradient
        return {
            "position": self._position,
            "due": self._due,
            "samples": self._samples,
            "sum_sq_norms": self._sum_sq_norms,
            "gradient": None if gradient is None else {n: g.clone() for n, g in gradient.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: for the state of something else; nothing has changed then.
        """
        numbers = {"position", "samples", "sum_sq_norms"}
        saved = require_entries("GradientDiversity", state, {*numbers, "due", "gradient"})
        require_numbers("GradientDiversity", {name: saved[name] for name in numbers}, numbers)
        gradient = saved["gradient"]
        if gradient is not None:
            if not all(isinstance(value, Tensor) for value in dict(gradient).values()):
                raise ValueError(
                    "the gradient in the state of GradientDiversity holds no tensors; accepted are "
                    "tensors by parameter name: load what state_dict() returned"
                )
            gradient = {name: value.clone() for name, value in gradient.items()}
        self._position, self._due = saved["position"], bool(saved["due"])
        self._samples, self._sum_sq_norms = saved["samples"], saved["sum_sq_norms"]
        self._gradient = gradient

    def _add(self, statistics: GradientStatistics) -> None:
        mean = statistics.require_mean_gradient()
        total = self._gradient
        if total is None:
            total = {name: _zeros(gradient) for name, gradient in mean.items()}
        if {n: g.shape for n, g in total.items()} != {n: g.shape for n, g in mean.items()}:
            raise ValueError(
                "the gradients of an epoch add up only for the same parameters; those of this "
                f"batch are {sorted(mean)}, before they were {sorted(total)}: use one "
                "GradientDiversity per model, and change its parameters between epochs"
            )
        for name, gradient in mean.items():
            gradient = whole(gradient).to(total[name].device)
            total[name].add_(gradient, alpha=statistics.batch_size)
        self._gradient = total
        self._samples += statistics.batch_size
        self._sum_sq_norms += statistics.sum_sq_norms

    def _diversity(self, stages: Stages | None) -> float:
        assert self._gradient is not None
        sq_norm = squared_norm(self._gradient.values()).item()
        if stages is not None:
            (sq_norm,) = stages.added([sq_norm])
        if not self._sum_sq_norms:
            return 0.0
        return self._sum_sq_norms / sq_norm if sq_norm else math.inf


def _zeros(gradient: Tensor) -> Tensor:
    kind = torch.promote_types(gradient.dtype, torch.float32)
    return torch.zeros(gradient.shape, dtype=kind, device=gradient.device)
