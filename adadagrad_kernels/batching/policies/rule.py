"""A criterion that remembers earlier steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adadagrad_kernels.batching.policies.criterion import CriterionPolicy
from adadagrad_kernels.criteria import BatchSizeRule

if TYPE_CHECKING:
    from adadagrad_kernels.statistics import GradientStatistics


class RulePolicy(CriterionPolicy):
    """Tells a rule of every step, and saves what it remembers."""

    given: BatchSizeRule

    @classmethod
    def takes(cls, given: Any) -> bool:
        """Every ``BatchSizeRule``."""
        return isinstance(given, BatchSizeRule)

    def wants(self, samples: int) -> bool:
        """As the rule says."""
        return self.given.wants_statistics(samples)

    def require_whole(self, statistics: GradientStatistics, samples: int) -> None:
        """A rule counts samples by the record."""
        if samples != statistics.batch_size:
            raise ValueError(
                f"{self.given.name} counts samples by the record, which has "
                f"{statistics.batch_size} of the step's {samples}: measure the whole step"
            )

    def count(self, samples: int) -> None:
        """Passed on."""
        self.given.count(samples)

    def state_dict(self) -> dict[str, Any]:
        """The rule's."""
        return self.given.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """The rule's."""
        self.given.load_state_dict(state)  # type: ignore[arg-type]
