"""Batch sizes that are a function of the samples seen, without any statistics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from adadagrad_kernels.batching._validation import require_int


class BatchSizeSchedule(ABC):
    """A batch size for every number of samples seen.

    ``BatchController`` takes a schedule in the place of a criterion. Then it never wants statistics:
    after every ``step`` the size is that of the schedule, within the controller's bounds.

    Example:
        >>> from adadagrad_kernels.batching import BatchController, StepSchedule
        >>> schedule = StepSchedule(128, step_size=1_000, gamma=2)
        >>> controller = BatchController(schedule, max_batch_size=2048)
        >>> [controller.step(controller.batch_size) for _ in range(9)][-2:]
        [128, 256]
    """

    name: ClassVar[str] = "schedule"

    @abstractmethod
    def __call__(self, samples_seen: int) -> float:
        """The size of the batch that comes after so many samples: a real number at least 1."""

    def sizes(self) -> Mapping[int, int] | None:
        """Every size that is meant exactly, by the samples from which on it holds.

        None where sizes are real numbers, which are rounded up.
        """
        return None


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
                "a batch size is a finite number of at least 1"
            )
        return size


@dataclass(frozen=True)
class StepSchedule(BatchSizeSchedule):
    r"""Multiplies the size after every so many samples, as torch's StepLR the learning rate.

    .. math:: b(n) = \min(\lfloor b_0 \gamma^{\lfloor n / \text{step\_size} \rfloor} \rfloor, b_{\max})

    With gamma = 2 and a step of 20 epochs this is AdaBatch (Devarakonda, Naumov, Garland,
    arXiv 1712.02029), which multiplies the learning rate by 0.75 at each doubling:
    ``BatchSizeLR(optimizer, PerDoubling(0.75))``.

    Attributes:
        initial: :math:`b_0`.
        step_size: samples between two steps.
        gamma: the factor, greater than 1.
        last: :math:`b_{\max}`; None leaves it to the controller's cap.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from adadagrad_kernels.batching import StepSchedule
        >>> schedule = StepSchedule(128, step_size=20 * 50_000, last=2048)
        >>> [schedule(epoch * 50_000) for epoch in (0, 19, 20, 40, 99)]
        [128.0, 128.0, 256.0, 512.0, 2048.0]
    """

    initial: int
    step_size: int
    gamma: float = 2.0
    last: int | None = None
    name: ClassVar[str] = "step_schedule"

    def __post_init__(self) -> None:
        require_int("initial", self.initial, at_least=1)
        require_int("step_size", self.step_size, at_least=1)
        _require_factor(self.gamma)
        if self.last is not None:
            require_int("last", self.last, at_least=self.initial)

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        steps = samples_seen // self.step_size
        try:
            size = float(math.floor(self.initial * self.gamma**steps))
        except OverflowError:
            size = float(2**53)
        return size if self.last is None else min(size, float(self.last))


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
        ordered = dict(sorted(self.milestones.items()))
        if 0 not in ordered:
            raise ValueError(
                f"milestones must say the size at 0 samples; the first is {next(iter(ordered), None)}"
            )
        before = 0
        for samples, size in ordered.items():
            require_int("a milestone", samples, at_least=0)
            require_int(f"the size at {samples:,} samples", size, at_least=1)
            if size < before:
                raise ValueError(
                    f"the size at {samples:,} samples, {size:,}, is below {before:,} before it: "
                    "a schedule may only grow"
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


@dataclass(frozen=True)
class LinearSchedule(BatchSizeSchedule):
    """Grows from one size to another in a straight line over so many samples, and stays there.

    Attributes:
        start: the size at 0 samples.
        end: the size from ``samples`` on, at least ``start``.
        samples: length of the line.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from adadagrad_kernels.batching import LinearSchedule
        >>> schedule = LinearSchedule(start=100, end=300, samples=1_000)
        >>> schedule(0), schedule(500), schedule(5_000)
        (100.0, 200.0, 300.0)
    """

    start: int
    end: int
    samples: int
    name: ClassVar[str] = "linear_schedule"

    def __post_init__(self) -> None:
        _require_range(self.start, self.end, self.samples)

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        share = min(1.0, samples_seen / self.samples)
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True)
class CosineSchedule(BatchSizeSchedule):
    r"""Grows along half a cosine wave, the mirror image of torch's CosineAnnealingLR.

    .. math:: b(n) = b_{\text{end}} - \tfrac12 (b_{\text{end}} - b_{\text{start}})
        \bigl(1 + \cos(\pi n / n_{\max})\bigr)

    Attributes:
        start: the size at 0 samples.
        end: the size from ``samples`` on, at least ``start``.
        samples: :math:`n_{\max}`.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from adadagrad_kernels.batching import CosineSchedule
        >>> schedule = CosineSchedule(start=100, end=300, samples=1_000)
        >>> schedule(0), round(schedule(500)), schedule(1_000)
        (100.0, 200, 300.0)
    """

    start: int
    end: int
    samples: int
    name: ClassVar[str] = "cosine_schedule"

    def __post_init__(self) -> None:
        _require_range(self.start, self.end, self.samples)

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        angle = math.pi * min(1.0, samples_seen / self.samples)
        return self.end - 0.5 * (self.end - self.start) * (1.0 + math.cos(angle))


def _require_factor(gamma: float) -> None:
    if not 1.0 < gamma < math.inf:
        raise ValueError(f"gamma must be a finite factor above 1, got {gamma}: sizes only grow")


def _require_range(start: int, end: int, samples: int) -> None:
    require_int("start", start, at_least=1)
    require_int("samples", samples, at_least=1)
    require_int("end", end, at_least=1)
    if end < start:
        raise ValueError(f"end {end:,} is below start {start:,}: a schedule may only grow")
