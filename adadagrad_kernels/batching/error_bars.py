"""Confidence intervals of what a test reads and suggests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from adadagrad_kernels.settings import require_equal, require_keys
from adadagrad_kernels.statistics.noise_estimate import FEWEST, Interval, RunningNoise, quantile

if TYPE_CHECKING:
    from adadagrad_kernels.statistics import GradientStatistics


class ErrorBars:
    """The intervals of the latest test, as numbers for a log.

    Args:
        level: of confidence, above 0 and below 1.
        criterion: that makes the tests.
        smoothing: weight of the past in the averages that it reads.

    Attributes:
        metrics: by their names; empty before a test of four samples or more.

    Raises:
        ValueError: for another level, or averages of averages.
    """

    def __init__(self, level: float, criterion: Any, smoothing: float) -> None:
        quantile(level, FEWEST)
        beta = getattr(criterion, "beta", 0.0)
        if beta and smoothing:
            raise ValueError(
                f"error_bars do not cover averages of averages, and {criterion.name} has "
                f"beta={beta} beside smoothing={smoothing}: set one of them to 0"
            )
        self.level: float = level
        self.metrics: dict[str, float] = {}
        self._running = RunningNoise(beta or smoothing)

    def observe(self, statistics: GradientStatistics, criterion: Any) -> None:
        """Take note of the statistics of a test, finite and of the whole step."""
        samples = statistics.batch_size
        if samples < FEWEST:
            self.metrics = {}
            return
        estimate = statistics.noise_estimate
        found = {
            "grad/var": estimate.noise_interval(self.level),
            "gns": estimate.scale_interval(self.level),
        }
        size_at = getattr(criterion, "size_at", None)
        low, high = self._running.add(estimate).scale_interval(self.level)
        if size_at is not None:
            found["batch/suggested"] = (size_at(low, samples), size_at(high, samples))
        elif (interval := self._interval(statistics, criterion)) is not None:
            found["batch/suggested"] = interval
        self.metrics = {
            "spread/noise": estimate.noise_variance,
            "spread/signal": estimate.signal_variance,
            "spread/both": estimate.covariance,
            "spread/level": self.level,
        }
        for name, (low, high) in found.items():
            self.metrics |= {f"{name}_low": low, f"{name}_high": high}

    def _interval(self, statistics: GradientStatistics, criterion: Any) -> Interval | None:
        """Of a criterion that makes its own, from the statistics of a step by itself."""
        of = getattr(criterion, "interval", None)
        found: Interval | None = None
        if of is not None and not self._running.beta:
            found = of(statistics, self.level)
        return found

    def missing(self, criterion: Any) -> str | None:
        """Why T has no interval; None where it has one, or the batch was too small."""
        if not self.metrics or "batch/suggested_low" in self.metrics:
            return None
        reason = getattr(criterion, "no_interval", "it is no function of the noise scale")
        return (
            f"the sizes of {criterion.name} get no interval, only the noise and its scale: {reason}"
        )

    def state_dict(self) -> dict[str, Any]:
        """The averages and the latest numbers, as plain JSON types."""
        return {
            "level": self.level,
            "metrics": dict(self.metrics),
            "running": self._running.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: if keys are missing or the level is another; nothing has changed then.
        """
        require_keys("ErrorBars", state, self.state_dict())
        require_equal("ErrorBars", "level", state["level"], self.level)
        self._running.load_state_dict(state["running"])
        self.metrics = {str(name): float(value) for name, value in state["metrics"].items()}
