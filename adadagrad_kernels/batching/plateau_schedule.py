"""A batch that grows when a metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from adadagrad_kernels.batching.schedules import BatchSizeSchedule
from adadagrad_kernels.settings import require_equal, require_factor, require_int, require_keys

#: Integers are exact up to here.
_LARGEST = 2.0**53


class PlateauSchedule(BatchSizeSchedule):
    """Multiplies the size when a metric has stopped improving.

    Pass the metric to ``observe`` after each evaluation; the size changes at the next step. The
    arguments and their defaults are those of ``torch.optim.lr_scheduler.ReduceLROnPlateau``, with
    ``factor`` above 1. NaN does not count as an improvement.

    Args:
        initial: the size at first.
        factor: by which a plateau multiplies the size, greater than 1.
        mode: ``"min"`` for a metric that should fall, ``"max"`` for one that should rise.
        patience: evaluations without improvement that are tolerated; the next one multiplies.
        threshold: by how much a metric must be better to count.
        threshold_mode: ``"rel"``: that share of the best so far; ``"abs"``: that difference.
        cooldown: evaluations after a growth in which no bad one is counted.

    Attributes:
        size: the size now, a real number.
        best: the best metric so far, or None.
        bad: evaluations in a row without improvement.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> from adadagrad_kernels.batching import PlateauSchedule
        >>> schedule = PlateauSchedule(64, patience=1)
        >>> for loss in (1.0, 0.5, 0.5, 0.5):
        ...     schedule.observe(loss)
        >>> schedule.size
        128.0
    """

    name: ClassVar[str] = "plateau_schedule"

    def __init__(
        self,
        initial: int,
        *,
        factor: float = 2.0,
        mode: str = "min",
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
    ) -> None:
        require_factor("factor", factor, above=1.0)
        if not 0.0 <= threshold < math.inf:
            raise ValueError(f"threshold must be a finite number of at least 0, got {threshold}")
        _require_choice("mode", mode, ("min", "max"))
        _require_choice("threshold_mode", threshold_mode, ("rel", "abs"))
        self.size: float = float(require_int("initial", initial, at_least=1))
        self.patience: int = require_int("patience", patience, at_least=0)
        self.cooldown: int = require_int("cooldown", cooldown, at_least=0)
        self.factor: float = factor
        self.threshold: float = threshold
        self.mode: str = mode
        self.threshold_mode: str = threshold_mode
        self.best: float | None = None
        self.bad: int = 0
        self.cooling: int = 0

    def __repr__(self) -> str:
        return (
            f"PlateauSchedule(factor={self.factor}, mode={self.mode!r}, patience={self.patience}, "
            f"threshold={self.threshold}, threshold_mode={self.threshold_mode!r}, "
            f"cooldown={self.cooldown})"
        )

    def __call__(self, samples_seen: int) -> float:
        """The size now."""
        return self.size

    def observe(self, metric: float) -> None:
        """Take note of an evaluation."""
        metric = float(metric)
        if self._better(metric):
            self.best, self.bad = metric, 0
        else:
            self.bad += 1
        if self.cooling:
            self.cooling -= 1
            self.bad = 0
        if self.bad > self.patience:
            self.size = min(self.size * self.factor, _LARGEST)
            self.bad, self.cooling = 0, self.cooldown

    def hold(self, largest: int) -> None:
        """Do not exceed the controller's cap, at which plateaus change nothing."""
        self.size = min(self.size, float(largest))

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, as plain JSON types."""
        return {
            "settings": repr(self),
            "size": self.size,
            "best": self.best,
            "bad": self.bad,
            "cooling": self.cooling,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: if keys are missing or the settings are others; nothing has changed then.
        """
        require_keys("PlateauSchedule", state, self.state_dict())
        require_equal("PlateauSchedule", "settings", state["settings"], repr(self))
        self.size, self.best = float(state["size"]), state["best"]
        self.bad, self.cooling = int(state["bad"]), int(state["cooling"])

    def _better(self, metric: float) -> bool:
        if math.isnan(metric):
            return False
        if self.best is None:
            return True
        sign = 1.0 if self.mode == "min" else -1.0
        if self.threshold_mode == "rel":
            return sign * metric < sign * self.best * (1.0 - sign * self.threshold)
        return sign * metric < sign * self.best - self.threshold


def _require_choice(name: str, given: str, accepted: tuple[str, ...]) -> None:
    if given not in accepted:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, accepted))}, got {given!r}")
