"""A scheduler that counts a controller's samples, for trainers that call ``step()`` once a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from adadagrad_kernels.batching import BatchController, SamplesLR


class SamplesScheduler(LRScheduler):
    """Makes any scheduler count samples, behind the interface of torch's schedulers.

    ``step()`` takes no number: it asks the controller, and moves the scheduler on by the samples
    since its last call. So it may be called once in every step, or more often.

    Args:
        scheduler: built on the optimizer, with all its times in units of ``samples_per_step``.
        samples_per_step: samples per step of it.
        controller: counts the samples.

    Raises:
        ValueError: for ReduceLROnPlateau, and a unit that is not positive.
    """

    def __init__(
        self, scheduler: LRScheduler, samples_per_step: int, controller: BatchController
    ) -> None:
        # Not LRScheduler's own constructor, which would set the rates.
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(
                "ReduceLROnPlateau counts evaluations, not steps, so it needs no samples; return "
                "it from configure_optimizers as it is, with its monitor"
            )
        self.samples: SamplesLR = SamplesLR(scheduler, samples_per_step)
        self.controller = controller
        self.optimizer: Optimizer = scheduler.optimizer
        self.base_lrs: list[float | Tensor] = scheduler.base_lrs

    @property
    def last_epoch(self) -> int:  # type: ignore[override]
        """Steps of the scheduler inside."""
        return self.samples.scheduler.last_epoch

    def step(self, epoch: int | None = None) -> None:
        """Move on by the samples since the last call."""
        passed = self.controller.samples_seen - self.samples.samples_seen
        if passed > 0:
            self.samples.step(passed)

    def get_last_lr(self) -> list[float | Tensor]:
        """The learning rates now, one per parameter group."""
        return self.samples.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """That of ``SamplesLR``."""
        return self.samples.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state_dict``."""
        self.samples.load_state_dict(state)

    @classmethod
    def of(cls, samples: SamplesLR, controller: BatchController) -> SamplesScheduler:
        """Around a ``SamplesLR`` that is there already."""
        ours = cls(samples.scheduler, samples.samples_per_step, controller)
        ours.samples = samples
        return ours
