"""A criterion that decides on every batch by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from adadagrad_kernels.batching.policies.policy import BatchSizePolicy

if TYPE_CHECKING:
    from adadagrad_kernels.criteria import BatchSizeCriterion, Decision
    from adadagrad_kernels.statistics import GradientStatistics


class CriterionPolicy(BatchSizePolicy):
    """Suggests what a criterion says of the statistics of a step."""

    given: BatchSizeCriterion
    reads_statistics: ClassVar[bool] = True

    @classmethod
    def takes(cls, given: Any) -> bool:
        """What can be called and has a name."""
        return callable(given) and hasattr(given, "name")

    def suggest(self, statistics: GradientStatistics) -> Decision:
        """The criterion's decision."""
        return self.given(statistics)
