"""Learning-rate schedules that count samples, for a batch size that changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

from adadagrad_kernels.settings import require_equal, require_int, require_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from torch.optim import Optimizer

# Their rate is a function of ``last_epoch`` alone, so units in between need not be visited.
# Subclasses may add state of their own, hence the exact types.
_WITHOUT_MEMORY = (LambdaLR, OneCycleLR)


class SamplesLR:
    """Makes any torch scheduler count samples instead of steps.

    The inner scheduler takes one step for every ``samples_per_step`` samples, so at any batch size
    it does what it would do with a fixed batch of ``samples_per_step``. AdAdaGrad's schedules
    are functions of the samples seen (its code's ``warmup_samples`` and ``lr_decay_samples``).

    Call ``step`` after the optimizer's step, as torch asks. Samples short of a whole unit carry
    over to the next call. ReduceLROnPlateau gets the metric and at most one step per call, however
    many units have passed: one observation must not count as several bad ones. OneCycleLR keeps
    its last rate after the end of its cycle, which the last batch may cross.

    Args:
        scheduler: built on the optimizer, with all its times in units of ``samples_per_step``.
        samples_per_step: samples per step of the inner scheduler. A small unit makes a fine
            schedule; schedulers other than LambdaLR and OneCycleLR step through every unit,
            at some microseconds each.

    Attributes:
        scheduler: the inner scheduler.
        samples_per_step: the unit.
        samples_seen: samples counted so far.
        units: whole units passed so far.

    Raises:
        ValueError: if ``samples_per_step`` is not a positive integer.

    Example:
        >>> import torch
        >>> from torch.optim.lr_scheduler import StepLR
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        >>> schedule = SamplesLR(StepLR(optimizer, step_size=2, gamma=0.5), samples_per_step=100)
        >>> for batch in (100, 50, 250):
        ...     optimizer.step()
        ...     schedule.step(batch)
        >>> schedule.units, schedule.get_last_lr()
        (4, [0.25])
    """

    def __init__(self, scheduler: LRScheduler, samples_per_step: int) -> None:
        self.scheduler = scheduler
        self.samples_per_step: int = require_int("samples_per_step", samples_per_step, at_least=1)
        self.samples_seen: int = 0
        self.units: int = 0

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer whose learning rates are scheduled."""
        return self.scheduler.optimizer

    def step(self, samples: int, metric: float | Tensor | None = None) -> None:
        """Counts an optimizer step over ``samples`` samples and moves the schedule on.

        Args:
            samples: in the step, over all micro-batches and ranks.
            metric: for ReduceLROnPlateau, and for no other.

        Raises:
            ValueError: if samples is not positive, or the metric is missing or not wanted;
                nothing has changed then.
        """
        samples = require_int("samples", samples, at_least=1)
        needs_metric = isinstance(self.scheduler, ReduceLROnPlateau)
        if needs_metric != (metric is not None):
            name = type(self.scheduler).__name__
            raise ValueError(
                f"{name} reads a metric, got none: call step(samples, metric)"
                if needs_metric
                else f"{name} takes no metric, got {metric}: call step(samples)"
            )
        seen = self.samples_seen + samples
        units = seen // self.samples_per_step
        if units > self.units:
            before = dict(vars(self.scheduler))
            try:
                self._move(units - self.units, metric)
            except Exception:
                vars(self.scheduler).update(before)
                raise
        self.samples_seen, self.units = seen, units

    def _move(self, passed: int, metric: float | Tensor | None) -> None:
        scheduler = self.scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(metric)  # type: ignore[arg-type]
            return
        if isinstance(scheduler, OneCycleLR):
            # The last batch crosses the end of the cycle, whose last rate it keeps.
            passed = min(passed, scheduler.total_steps - 1 - scheduler.last_epoch)
        if passed > 0 and type(scheduler) in _WITHOUT_MEMORY:
            scheduler.last_epoch += passed - 1
            scheduler._step_count += passed - 1
            passed = 1
        for _ in range(passed):
            scheduler.step()

    def get_last_lr(self) -> list[float | Tensor]:
        """The learning rates now, one per parameter group."""
        return self.scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """Returns the counts and the inner scheduler's state."""
        return {
            "samples_per_step": self.samples_per_step,
            "samples_seen": self.samples_seen,
            "units": self.units,
            "scheduler_type": type(self.scheduler).__name__,
            "scheduler": self.scheduler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state_dict``.

        As with every torch scheduler, the rates themselves come back with the optimizer's state.

        Raises:
            ValueError: if keys are missing, or the unit or the type of scheduler is another;
                nothing has changed then.
        """
        owner = "SamplesLR"
        require_keys(owner, state, self.state_dict())
        for name in ("samples_per_step", "scheduler_type"):
            require_equal(owner, name, state[name], self.state_dict()[name])
        samples_seen, units = (
            require_int(f"saved {name}", state[name], at_least=0)
            for name in ("samples_seen", "units")
        )
        self.scheduler.load_state_dict(state["scheduler"])
        self.samples_seen, self.units = samples_seen, units
