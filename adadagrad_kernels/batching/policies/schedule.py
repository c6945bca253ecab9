"""Sizes by the samples so far, without any statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from adadagrad_kernels.batching._sizes import require_multiple, round_up
from adadagrad_kernels.batching.policies.policy import BatchSizePolicy
from adadagrad_kernels.batching.schedules import BatchSizeSchedule


class SchedulePolicy(BatchSizePolicy):
    """Suggests the size of a schedule after every step."""

    given: BatchSizeSchedule
    says_every_size: ClassVar[bool] = True

    @classmethod
    def takes(cls, given: Any) -> bool:
        """Every ``BatchSizeSchedule``."""
        return isinstance(given, BatchSizeSchedule)

    def first_size(self, batch_size: int | None, round_to: int) -> int:
        """The size that the schedule begins with.

        Raises:
            ValueError: for one of its exact sizes that is no multiple, or one given that is
                another.
        """
        for samples, size in (self.given.sizes() or {}).items():
            require_multiple(f"the schedule's size at {samples:,} samples,", size, round_to)
        first = round_up(self.given(0), round_to)
        if batch_size not in (None, first):
            raise ValueError(
                f"batch_size {batch_size} is not the schedule's first size, {first}: leave it out"
            )
        return first

    def scheduled(
        self, samples_seen: int, *, least: int, largest: int, round_to: int
    ) -> float | None:
        """The schedule's size, which may only grow unless ``least`` allows less."""
        size = self.given(samples_seen)
        if round_up(size, round_to) < least:
            raise ValueError(
                f"{self.given.name} gave {size:g} at {samples_seen:,} samples, below the batch "
                f"size {least}: a schedule may only grow, unless allow_shrink=True"
            )
        self.given.hold(largest)
        return size

    def state_dict(self) -> dict[str, Any] | None:
        """The schedule's."""
        return self.given.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """The schedule's."""
        if state is not None:
            self.given.load_state_dict(state)
