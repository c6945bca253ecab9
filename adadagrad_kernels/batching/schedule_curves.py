"""Schedules that follow a curve: steps, a line, half a cosine wave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from adadagrad_kernels.batching.schedules import BatchSizeSchedule
from adadagrad_kernels.settings import require_factor, require_int


@dataclass(frozen=True)
class StepSchedule(BatchSizeSchedule):
    r"""Multiplies the size every ``step_size`` samples, as torch's StepLR does the learning rate.

    .. math::
        b(n) = \min(\lfloor b_0 \gamma^{\lfloor n / \text{step\_size} \rfloor} \rfloor, b_{\max})

    With gamma = 2 and a step of 20 epochs this is AdaBatch (Devarakonda, Naumov, Garland,
    arXiv 1712.02029), which multiplies the learning rate by 0.75 at each doubling:
    ``BatchSizeLR(optimizer, per_doubling(0.75), batch_size=128)``.

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
        require_factor("gamma", self.gamma, above=1.0)
        if self.last is not None:
            require_int("last", self.last, at_least=self.initial)

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        steps = samples_seen // self.step_size
        try:
            # 100 times 1.15 is 114.99999999999999 in floating point.
            size = float(math.floor(self.initial * self.gamma**steps * (1.0 + 1e-12)))
        except OverflowError:
            size = float(2**53)
        return size if self.last is None else min(size, float(self.last))


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


def _require_range(start: int, end: int, samples: int) -> None:
    require_int("start", start, at_least=1)
    require_int("samples", samples, at_least=1)
    require_int("end", end, at_least=1)
    if end < start:
        raise ValueError(f"end {end:,} is below start {start:,}: a schedule may only grow")
