"""One cycle of the batch: down to a small size, and up to a large one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adadagrad_kernels.batching.schedules import BatchSizeSchedule, require_growth
from adadagrad_kernels.settings import require_int


@dataclass(frozen=True)
class OneCycleSchedule(BatchSizeSchedule):
    r"""Falls from one size to the smallest and rises to the largest, in straight lines.

    With :math:`n_t = \lfloor \text{turn} \cdot n_{\max} \rfloor`,

    .. math::
        b(n) = b_0 - (b_0 - b_{\min}) \frac{n}{n_t} \text{ until } n_t, \qquad
        b(n) = b_{\min} + (b_{\max} - b_{\min}) \frac{n - n_t}{n_{\max} - n_t} \text{ after it}

    It is Smith's 1cycle policy (arXiv 1803.09820) with the batch in the place of the learning rate,
    as in OneCycleBS of bs-scheduler: the noise of SGD goes with the rate over the batch
    (Smith and Le, arXiv 1710.06451), so a constant rate and a batch that falls and rises make
    one cycle of it. The learning rate stays. The controller must have ``allow_shrink=True``.

    Attributes:
        first: :math:`b_0`, the size at 0 samples.
        smallest: :math:`b_{\min}`, at most ``first``.
        largest: :math:`b_{\max}`, at least ``first``; it holds from ``samples`` on.
        samples: :math:`n_{\max}`.
        turn: the share of the samples before the smallest size, above 0 and below 1.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from adadagrad_kernels.batching import OneCycleSchedule
        >>> schedule = OneCycleSchedule(64, smallest=16, largest=256, samples=10_000)
        >>> [schedule(samples) for samples in (0, 3_000, 6_500, 10_000)]
        [64.0, 16.0, 136.0, 256.0]
    """

    first: int
    smallest: int
    largest: int
    samples: int
    turn: float = 0.3
    name: ClassVar[str] = "one_cycle_schedule"
    may_shrink: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_growth(smallest=self.smallest, first=self.first, largest=self.largest)
        require_int("samples", self.samples, at_least=2)
        if not 0.0 < self.turn < 1.0:
            raise ValueError(f"turn must be a share above 0 and below 1, got {self.turn}")

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        turn = max(1, int(self.turn * self.samples))
        if samples_seen <= turn:
            return self.first - (self.first - self.smallest) * samples_seen / turn
        share = min(1.0, (samples_seen - turn) / (self.samples - turn))
        return self.smallest + (self.largest - self.smallest) * share
