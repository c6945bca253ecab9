"""Batch sizes that are a function of the samples seen, without any statistics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

from adadagrad_kernels.settings import require_int


class BatchSizeSchedule(ABC):
    """A batch size for every number of samples seen.

    ``BatchController`` takes a schedule instead of a criterion. It then never wants statistics:
    after every ``step`` the size is the schedule's, within the controller's bounds.

    Example:
        >>> from adadagrad_kernels.batching import BatchController, StepSchedule
        >>> schedule = StepSchedule(128, step_size=1_000, gamma=2)
        >>> controller = BatchController(schedule, max_batch_size=2048)
        >>> [controller.step(controller.batch_size) for _ in range(8)][-2:]
        [128, 256]
    """

    name: ClassVar[str] = "schedule"
    #: Whether its sizes fall anywhere, which needs ``allow_shrink=True``.
    may_shrink: ClassVar[bool] = False
    # For loops that ask their criterion what to measure.
    needs_variance: ClassVar[bool] = False
    needs_inner_products: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, samples_seen: int) -> float:
        """The size of the batch that comes after so many samples: a real number at least 1."""

    def sizes(self) -> Mapping[int, int] | None:
        """The sizes that hold exactly, by the number of samples at which each begins.

        None if sizes are real numbers, which are rounded up.
        """
        return None

    def rate(self, samples_seen: int) -> float:
        """The factor of the learning rate for the step after so many samples; 1 for most.

        A scheduler of torch that applies it, beside any ``BatchSizeLR``, is
        ``SamplesLR(LambdaLR(optimizer, schedule.rate), samples_per_step=1)``.
        """
        return 1.0

    @property
    def rate_ends(self) -> int | None:
        """The samples from which on ``rate`` is 0; None where it is 1 throughout."""
        return None

    def observe(self, metric: float) -> None:
        """Take note of an evaluation; most schedules read none."""

    def hold(self, largest: int) -> None:
        """Take note of the controller's cap."""

    def state_dict(self) -> dict[str, Any] | None:
        """All that it remembers, as plain JSON types; None for nothing."""
        return None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``; nothing changes where that raises ValueError."""


@dataclass(frozen=True)
class Schedule(BatchSizeSchedule):
    """Any function of the samples seen, as torch's LambdaLR takes any of the epoch.

    Attributes:
        size_at: from samples seen to a size; called with integers from 0 on.
        name: for logs; a resumed run must have the same.

    Raises:
        ValueError: when called, where the function gives no finite number of at least 1.

    Example:
        >>> from adadagrad_kernels.batching import Schedule
        >>> Schedule(lambda samples_seen: 32 + samples_seen / 100)(6_400)
        96.0
    """

    size_at: Callable[[int], float] = field(repr=False)
    name: str = "schedule"  # type: ignore[misc]

    def __call__(self, samples_seen: int) -> float:
        """The function's value."""
        size = float(self.size_at(samples_seen))
        if not 1.0 <= size < math.inf:
            raise ValueError(
                f"the schedule '{self.name}' gave {size} at {samples_seen:,} samples; "
                "accepted is a finite number of at least 1"
            )
        return size


@dataclass(frozen=True)
class MilestoneSchedule(BatchSizeSchedule):
    """One size from each milestone on, in samples.

    Attributes:
        milestones: from samples seen to the size that holds from there on; one of them is 0.

    Raises:
        ValueError: for no size at 0, sizes below 1 or a size smaller than the one before it.

    Example:
        >>> from adadagrad_kernels.batching import MilestoneSchedule
        >>> schedule = MilestoneSchedule({0: 256, 1_000_000: 512})
        >>> schedule(999_999), schedule(1_000_000)
        (256.0, 512.0)
    """

    milestones: Mapping[int, int]
    name: ClassVar[str] = "milestone_schedule"

    def __post_init__(self) -> None:
        for samples in self.milestones:
            require_int("a milestone", samples, at_least=0)
        ordered = dict(sorted(self.milestones.items()))
        if 0 not in ordered:
            first = f"begin at {next(iter(ordered)):,}" if ordered else "are empty"
            raise ValueError(
                f"milestones must give the size at 0 samples, but these {first}: add 0: SIZE"
            )
        before = 0
        for samples, size in ordered.items():
            require_int(f"the size at {samples:,} samples", size, at_least=1)
            if size < before:
                raise ValueError(
                    f"the size at {samples:,} samples, {size:,}, is below {before:,} before it: "
                    "a schedule may only grow, so give sizes in rising order"
                )
            before = size
        object.__setattr__(self, "milestones", ordered)

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        reached = max(samples for samples in self.milestones if samples <= samples_seen)
        return float(self.milestones[reached])

    def sizes(self) -> Mapping[int, int]:
        """The milestones."""
        return self.milestones


def require_growth(**sizes: int) -> None:
    """Refuse sizes that do not rise in the order they are given.

    Raises:
        ValueError: for one below 1, or below the one before it.
    """
    for name, size in sizes.items():
        require_int(name, size, at_least=1)
    named = list(sizes.items())
    for (before, smaller), (after, larger) in pairwise(named):
        if larger < smaller:
            raise ValueError(
                f"{after} {larger:,} is below {before} {smaller:,}: give sizes in rising order"
            )
