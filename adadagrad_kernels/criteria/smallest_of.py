"""A filter, so that no single batch decides alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from adadagrad_kernels.criteria.decision import (
    BatchSizeCriterion,
    BatchSizeRule,
    Decision,
    not_yet,
)
from adadagrad_kernels.settings import require_entries, require_int
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(eq=False, repr=False)
class SmallestOf:
    """Takes the smallest of the suggestions of several steps in a row (AdaBatchGrad).

    T = min(T_1, ..., T_k) at every k-th tested step; the others keep the size, T = b. So a batch
    that asks for too much does not enlarge those that follow, and the size can grow only every k
    steps (Ostroukhov et al., arXiv 2402.05264; the filter is that of a port of their code, k = 5).
    Their method is this filter around ``AugmentedInnerProductTest(0.9, 5.84)``, with the optimizer
    ``DelayedAdagradNorm``.

    Steps without a test and suggestions of NaN do not count.

    Attributes:
        criterion: any criterion, also one that remembers earlier steps.
        steps: k, at least 1.

    Raises:
        ValueError: for other steps; when called, what the criterion raises.

    Example:
        >>> from adadagrad_kernels.criteria import NormTest, SmallestOf
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> rule = SmallestOf(NormTest(eta=1.0), steps=2)
        >>> for sum_sq_norms in (78.0, 50.0):
        ...     print(rule(GradientStatistics(8, 1.0, sum_sq_norms)).batch_size)
        8.0
        6.0
    """

    criterion: BatchSizeCriterion
    steps: int = 5
    _suggestions: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.steps = require_int("steps", self.steps, at_least=1)

    def __repr__(self) -> str:
        """The settings, without an address, which would differ in every run."""
        inner = repr(self.criterion) if is_dataclass(self.criterion) else self.criterion.name
        return f"SmallestOf({inner}, steps={self.steps})"

    @property
    def name(self) -> str:
        """snake_case name, for logs."""
        return f"smallest_of_{self.steps}_{self.criterion.name}"

    @property
    def needs_variance(self) -> bool:
        """Whether the criterion reads the coordinate-wise variance."""
        return self.criterion.needs_variance

    @property
    def needs_inner_products(self) -> bool:
        """Whether the criterion reads the inner products with the mean gradient."""
        return self.criterion.needs_inner_products

    @property
    def larger_batches(self) -> dict[str, str]:
        """Which way the constants go: those of the criterion, where it says so, and the steps."""
        inner: Mapping[str, str] = getattr(self.criterion, "larger_batches", {})
        return {**inner, "steps": "smaller"} if inner else {}

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Keep the criterion's suggestion, and decide where it is the last of ``steps``."""
        decision = self.criterion(statistics)
        size, constants = decision.batch_size, decision.smallest_constants
        if math.isnan(size):
            return Decision(self.name, size, False, constants)
        # A criterion that remembers may not decide yet; then it suggests the size it has seen.
        undecided = isinstance(self.criterion, BatchSizeRule) and size == statistics.batch_size
        if decision.decided and not undecided:
            self._suggestions.append(size)
        if len(self._suggestions) < self.steps:
            return not_yet(self.name, statistics, constants)
        smallest = min(self._suggestions)
        self._suggestions = []
        return Decision(self.name, smallest, smallest <= statistics.batch_size, constants)

    def wants_statistics(self, samples: int) -> bool:
        """What the criterion wants; every step's where it remembers nothing."""
        inner = self.criterion
        return not isinstance(inner, BatchSizeRule) or inner.wants_statistics(samples)

    def count(self, samples: int) -> None:
        """Pass the note of a step that was not measured on to the criterion."""
        if isinstance(self.criterion, BatchSizeRule):
            self.criterion.count(samples)

    def state_dict(self) -> dict[str, Any]:
        """The suggestions so far, and what the criterion remembers."""
        inner = self.criterion
        return {
            "suggestions": list(self._suggestions),
            "criterion": inner.state_dict() if isinstance(inner, BatchSizeRule) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: for the state of something else; nothing has changed then.
        """
        saved = require_entries("SmallestOf", state, {"suggestions", "criterion"})
        suggestions = saved["suggestions"]
        if not isinstance(suggestions, list) or len(suggestions) >= self.steps:
            raise ValueError(
                f"the state of SmallestOf has suggestions={suggestions!r}; accepted is a list of "
                f"fewer than steps={self.steps}"
            )
        suggestions = [float(value) for value in suggestions]
        if isinstance(self.criterion, BatchSizeRule):
            self.criterion.load_state_dict(saved["criterion"])
        self._suggestions = suggestions
