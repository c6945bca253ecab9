"""The protocol between a controller and what decides on its sizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from adadagrad_kernels.batching._sizes import require_multiple

if TYPE_CHECKING:
    from adadagrad_kernels.criteria import Decision
    from adadagrad_kernels.statistics import GradientStatistics


class BatchSizePolicy(ABC):
    """Suggests sizes, from the statistics of a step or from the samples so far.

    Attributes:
        given: what the controller was given: a criterion, a rule, a schedule or None.
        reads_statistics: whether it suggests sizes from statistics.
        says_every_size: whether a suggestion is the size itself, not a bound from below:
            hysteresis does not hold it back, and if it may shrink it has no floor.
    """

    reads_statistics: ClassVar[bool] = False
    says_every_size: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def takes(cls, given: Any) -> bool:
        """Whether it is the policy of what a controller was given."""

    def __init__(self, given: Any) -> None:
        self.given = given

    @property
    def settings(self) -> str | None:
        """What a resumed run must have again.

        The constants matter too; only a dataclass promises them in its repr, without an address.
        """
        name: str | None = repr(self.given) if is_dataclass(self.given) else self.given.name
        return name

    def first_size(self, batch_size: int | None, round_to: int) -> int:
        """The size of the first batch.

        Raises:
            ValueError: where the user's, or the policy's own, does not fit.
        """
        if batch_size is None:
            raise ValueError(
                "batch_size is missing, and only a schedule has a first size of its own: pass "
                "batch_size="
            )
        return require_multiple("batch_size", batch_size, round_to)

    def wants(self, samples: int) -> bool:
        """Whether it reads the statistics of the next step, of so many samples."""
        return self.reads_statistics

    def require_whole(self, statistics: GradientStatistics, samples: int) -> None:
        """Refuse statistics of a part of a step's samples, where these would be counted.

        Raises:
            ValueError: naming both numbers.
        """

    def suggest(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of a step; asked only where it wants them."""
        raise NotImplementedError

    def count(self, samples: int) -> None:
        """Take note of a step without statistics."""

    def scheduled(
        self, samples_seen: int, *, least: int, largest: int, round_to: int
    ) -> float | None:
        """The size after so many samples; None if it does not depend on them.

        Args:
            samples_seen: the step's among them.
            least: the smallest size allowed.
            largest: the largest.
            round_to: sizes are multiples of it.

        Raises:
            ValueError: for a size below ``least``.
        """
        return None

    def state_dict(self) -> dict[str, Any] | None:
        """All that it remembers, as plain JSON types and tensors; None for nothing."""
        return None

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from a ``state_dict``; nothing changes where that raises ValueError."""
