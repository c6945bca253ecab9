"""Warm-up, stable phase and decay of the learning rate, with a batch that grows in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from adadagrad_kernels.batching.schedules import BatchSizeSchedule, require_growth
from adadagrad_kernels.settings import require_int


@dataclass(frozen=True)
class WarmupStableDecay(BatchSizeSchedule):
    r"""A learning rate that warms up, stays and decays; the batch doubles while it stays.

    With warm-up until :math:`n_w` samples, decay from :math:`n_d` to :math:`n_{\max}`, and
    K doublings between the first size and the last,

    .. math::
        b(n) = \min(b_0 2^{k}, b_{\max}), \quad k = \min\Bigl(K, \max\Bigl(0, \Bigl\lfloor
        K \frac{n - n_w}{n_d - n_w} \Bigr\rfloor\Bigr)\Bigr), \qquad
        \text{gain}(n) = \min\Bigl(1, \frac{n + b_0}{n_w}, \frac{n_{\max} - n}{n_{\max} - n_d}\Bigr)

    so the last size is reached where the decay begins. Zhou et al. (arXiv 2601.05034) find that
    under such a learning rate the batch that needs the fewest samples grows as the loss falls, and
    let the batch grow during the run. Equal shares of the stable phase for every doubling are the
    choice made here; when to double is what ``BatchController`` with a test measures.

    Attributes:
        first: :math:`b_0`.
        last: :math:`b_{\max}`, at least ``first``.
        samples: :math:`n_{\max}`, the budget. The learning rate is 0 from there on.
        warmup: :math:`n_w`; None is a twentieth of the budget.
        decay: samples of the decay, :math:`n_{\max} - n_d`; None is a fifth of the budget.

    Raises:
        ValueError: for numbers out of range, or no samples between warm-up and decay.

    Example:
        >>> from adadagrad_kernels.batching import WarmupStableDecay
        >>> schedule = WarmupStableDecay(32, 128, samples=10_000, warmup=1_000, decay=3_000)
        >>> [schedule(samples) for samples in (0, 3_999, 4_000, 7_000)]
        [32.0, 32.0, 64.0, 128.0]
        >>> [schedule.rate(samples) for samples in (468, 5_000, 8_500)]
        [0.5, 1.0, 0.5]
    """

    first: int
    last: int
    samples: int
    warmup: int | None = None
    decay: int | None = None
    name: ClassVar[str] = "warmup_stable_decay"

    def __post_init__(self) -> None:
        require_growth(first=self.first, last=self.last)
        require_int("samples", self.samples, at_least=1)
        for phase in ("warmup", "decay"):
            if getattr(self, phase) is not None:
                require_int(phase, getattr(self, phase), at_least=0)
        begin, end = self._stable()
        if begin >= end:
            raise ValueError(
                f"a warm-up until {begin:,} samples and a decay from {end:,} leave no stable phase "
                f"of the {self.samples:,}: make one of them shorter"
            )

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        reached = max(samples for samples in self.sizes() if samples <= samples_seen)
        return float(self.sizes()[reached])

    def sizes(self) -> Mapping[int, int]:
        """The doublings, by the samples at which each begins."""
        begin, end = self._stable()
        # Doublings that together reach the last size; the last of them may be a smaller factor.
        doublings = (-(-self.last // self.first) - 1).bit_length()
        found = {0: self.first}
        for k in range(1, doublings + 1):
            at = begin - (begin - end) * k // doublings
            found[at] = min(self.first << k, self.last)
        return found

    def rate(self, samples_seen: int) -> float:
        """The factor of the learning rate for the step that comes after so many samples."""
        begin, end = self._stable()
        # The first step's samples count: it must not be one of length 0.
        rising = (samples_seen + self.first) / begin if begin else 1.0
        falling = 1.0
        if samples_seen > end:
            falling = max(0.0, (self.samples - samples_seen) / (self.samples - end))
        return min(1.0, rising, falling)

    @property
    def rate_ends(self) -> int:
        """The end of the decay."""
        return self.samples

    def _stable(self) -> tuple[int, int]:
        """Where the stable phase begins and ends."""
        warmup = self.samples // 20 if self.warmup is None else self.warmup
        decay = self.samples // 5 if self.decay is None else self.decay
        return warmup, self.samples - decay
