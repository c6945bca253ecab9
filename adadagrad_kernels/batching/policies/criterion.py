"""A criterion that decides on every batch by itself."""

from __future__ import annotations

from dataclasses import is_dataclass
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

    @property
    def settings(self) -> str:
        """The constants matter too; only a dataclass promises them in its repr, no address."""
        return repr(self.given) if is_dataclass(self.given) else self.given.name

    def suggest(self, statistics: GradientStatistics) -> Decision:
        """The criterion's decision."""
        return self.given(statistics)
