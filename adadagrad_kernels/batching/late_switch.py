"""A small batch for most of a run, and a large one at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from adadagrad_kernels.batching.schedules import BatchSizeSchedule, require_growth
from adadagrad_kernels.settings import require_int


@dataclass(frozen=True)
class LateSwitchSchedule(BatchSizeSchedule):
    r"""Switches once from a small batch to a large one, late.

    .. math:: b(n) = b_{\text{small}} \text{ if } n < n_{\text{switch}}, \text{ else }
        b_{\text{large}}

    Wang et al. (arXiv 2602.14208) derive from functional scaling laws that on hard tasks the best
    schedule of a data budget is of this shape: after the switch the loss falls to where a large
    batch would have been all along. How late is best depends on the task; nothing here says it.
    The learning rate stays; ``BatchSizeLR`` beside it makes it follow the size.

    Attributes:
        small: the size until the switch.
        large: the size from then on, at least ``small``.
        switch: samples before the switch.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from adadagrad_kernels.batching import LateSwitchSchedule
        >>> schedule = LateSwitchSchedule(small=64, large=512, switch=80_000)
        >>> schedule(79_999), schedule(80_000)
        (64.0, 512.0)
    """

    small: int
    large: int
    switch: int
    name: ClassVar[str] = "late_switch_schedule"

    def __post_init__(self) -> None:
        require_int("switch", self.switch, at_least=1)
        require_growth(small=self.small, large=self.large)

    def __call__(self, samples_seen: int) -> float:
        """The size after so many samples."""
        return float(self.small if samples_seen < self.switch else self.large)

    def sizes(self) -> Mapping[int, int]:
        """Both."""
        return {0: self.small, self.switch: self.large}
