"""From gradient statistics to the next batch size."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from adadagrad_kernels.batching._sizes import next_size, require_multiple
from adadagrad_kernels.batching.controller_state import ControllerState, load_all
from adadagrad_kernels.batching.error_bars import ErrorBars
from adadagrad_kernels.batching.policies import policy_of
from adadagrad_kernels.batching.sharing import require_whole_step
from adadagrad_kernels.batching.signatures import FailureSignatures
from adadagrad_kernels.batching.smoothing import SmoothedStatistics
from adadagrad_kernels.batching.snapshot import Snapshot
from adadagrad_kernels.criteria import Decision
from adadagrad_kernels.settings import require_equal, require_factor, require_int, require_keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adadagrad_kernels.batching.schedules import BatchSizeSchedule
    from adadagrad_kernels.criteria import BatchSizeCriterion
    from adadagrad_kernels.statistics import GradientStatistics

_logger = logging.getLogger("adadagrad_kernels")


class BatchController:
    """Decides, between two optimizer steps, how large the next batch is.

    With T the real number that the criterion suggests, the next size is

        b[k+1] = min(b_max, max(b[k], ceil(T)))

    rounded up to a multiple of ``round_to`` (AdAdaGrad, arXiv 2402.11215, Algorithm 1). Sizes are
    global: over all ranks and micro-batches of one step. The decision is a function of the
    statistics alone, so ranks that share statistics share decisions. These keep the size:

    * statistics that hold NaN or infinity, or whose T is NaN: counted in ``nonfinite_steps``, and
      reported once through ``logging.getLogger("adadagrad_kernels")``;
    * a batch of one, which has no variance (start with at least 2 samples);
    * a step that is not a test step, and every step at the cap;
    * a T equal to the number of samples measured, as from criteria that do not decide yet.

    An infinite T from finite statistics means the largest batch allowed. A schedule
    (``BatchSizeSchedule``) instead of the criterion needs no statistics: ``step`` alone moves
    it on, and T is its size at ``samples_seen``.

    Args:
        criterion: the batch-size test or a schedule, or None for a fixed size.
        batch_size: samples in the first step; with ``allow_shrink`` also the floor. Leave it out
            with a schedule, which has its own first size.
        max_batch_size: the cap b_max.
        round_to: every size is a multiple of it, say micro-batch times ranks. ``batch_size`` and
            ``max_batch_size`` must be multiples too, so that the cap holds exactly.
        test_interval: test only at every n-th step.
        growth_cap: the largest factor by which one decision may enlarge the batch (None: no
            bound). One more multiple of ``round_to`` is always allowed, or small sizes would stick.
        allow_shrink: lets a T below the current size make the batch smaller again.
        hysteresis: the size changes only if T differs from it by more than this factor, at least
            1; not for schedules.
        cooldown: steps after a change in which nothing is tested.
        smoothing: weight of the past in running averages of the statistics, which the criterion
            then reads (``SmoothedStatistics``); 0: none. Not for criteria that read the variance of
            every coordinate.
        signatures: watches for failures; None: a ``FailureSignatures()``.
        error_bars: the level of confidence, such as 0.95, of intervals that ``metrics`` then has
            for the noise, the noise scale and, where T is a function of the noise scale, for T;
            one warning says why another criterion's T has none. Statistics must have the inner
            products of the samples, or their spread, as records of several ranks have it.

    Attributes:
        batch_size: samples of the next step.
        samples_seen: samples of all steps so far.
        steps: optimizer steps so far.
        nonfinite_steps: steps whose statistics were not finite.
        last_decision: what the criterion said last, or None.

    Raises:
        ValueError: for an argument out of range, saying the range.

    Example:
        >>> from adadagrad_kernels.criteria import NormTest
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> controller = BatchController(NormTest(eta=0.5), batch_size=8, max_batch_size=64)
        >>> statistics = GradientStatistics(batch_size=8, mean_sq_norm=1.0, sum_sq_norms=50.0)
        >>> controller.update(statistics)  # T = (50 - 8) / 7 / 0.25 = 24
        24
    """

    def __init__(
        self,
        criterion: BatchSizeCriterion | BatchSizeSchedule | None,
        *,
        batch_size: int | None = None,
        max_batch_size: int,
        round_to: int = 1,
        test_interval: int = 1,
        growth_cap: float | None = None,
        allow_shrink: bool = False,
        hysteresis: float = 1.0,
        cooldown: int = 0,
        smoothing: float = 0.0,
        signatures: FailureSignatures | None = None,
        error_bars: float | None = None,
    ) -> None:
        self._policy = policy_of(criterion)
        self.round_to: int = require_int("round_to", round_to, at_least=1)
        self.test_interval: int = require_int("test_interval", test_interval, at_least=1)
        self.batch_size: int = self._policy.first_size(batch_size, self.round_to)
        free = allow_shrink and self._policy.says_every_size
        self.min_batch_size: int = self.round_to if free else self.batch_size
        self.max_batch_size: int = require_multiple("max_batch_size", max_batch_size, self.round_to)
        if self.batch_size > self.max_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is above max_batch_size {max_batch_size}: "
                "start at or below the cap"
            )
        if growth_cap is not None:
            require_factor("growth_cap", growth_cap, above=1.0)
        self.growth_cap = growth_cap
        self.allow_shrink = allow_shrink
        self.hysteresis: float = require_factor("hysteresis", hysteresis, above=1.0, inclusive=True)
        self.cooldown: int = require_int("cooldown", cooldown, at_least=0)
        self.smoothing: SmoothedStatistics = SmoothedStatistics(smoothing)
        self._require_averages(criterion)
        self.error_bars: ErrorBars | None = (
            None if error_bars is None else ErrorBars(error_bars, criterion, smoothing)
        )
        self.signatures: FailureSignatures = (
            FailureSignatures() if signatures is None else signatures
        )
        self.samples_seen: int = 0
        self.steps: int = 0
        self.nonfinite_steps: int = 0
        self.last_decision: Decision | None = None
        self._changed: int | None = None
        self._gradient: dict[str, float] = {}
        self._warned: set[str] = set()

    @property
    def criterion(self) -> BatchSizeCriterion | BatchSizeSchedule | None:
        """What decides; another one may take its place between two steps."""
        given: BatchSizeCriterion | BatchSizeSchedule | None = self._policy.given
        return given

    @criterion.setter
    def criterion(self, given: BatchSizeCriterion | BatchSizeSchedule | None) -> None:
        policy = policy_of(given)
        self._require_averages(given)
        self._policy = policy

    @property
    def reads_statistics(self) -> bool:
        """Whether sizes follow from statistics; not with a schedule or a fixed size."""
        return self._policy.reads_statistics

    @property
    def average_batch_size(self) -> float:
        """Samples per step so far; the current size before the first step."""
        return self.samples_seen / self.steps if self.steps else float(self.batch_size)

    def wants_test(self, samples: int | None = None) -> bool:
        """Whether ``update`` will use the statistics of the next step.

        A loop that asks first saves the statistics of steps that decide nothing.

        Args:
            samples: samples in the next step, where not ``batch_size`` (the tail of an epoch).
        """
        if (self.steps + 1) % self.test_interval:
            return False
        if self._changed is not None and self.steps - self._changed < self.cooldown:
            return False
        if self.batch_size >= self.max_batch_size and not self.allow_shrink:
            return False
        samples = self.batch_size if samples is None else samples
        return samples >= 2 and self._policy.wants(samples)

    def update(
        self,
        statistics: GradientStatistics | None,
        samples: int | None = None,
        *,
        loss: float | Tensor | None = None,
    ) -> int:
        """Counts an optimizer step and decides from its statistics.

        Call it once per optimizer step, with the statistics of the whole step: of all its
        micro-batches and ranks.

        Args:
            statistics: of the step's gradients, taken before the parameters moved; None for a step
                that was not measured, which counts ``samples`` as ``step`` does.
            samples: samples in the step, where not ``statistics.batch_size``.
            loss: mean loss of the batch, a number or a tensor with one element, for ``signatures``;
                None takes that of the statistics.

        Returns:
            The size of the next batch.

        Raises:
            ValueError: for statistics or samples of one rank, where several train together.
        """
        if statistics is None:
            if samples is None:
                raise ValueError(
                    "got no statistics, since the step was not measured, and no samples; count the "
                    "step with step(samples), or pass update(None, samples)"
                )
            return self.step(samples, loss=loss)
        samples = require_int(
            "samples", statistics.batch_size if samples is None else samples, at_least=1
        )
        self._policy.require_whole(statistics, samples)
        require_whole_step(statistics, samples, decides=self.reads_statistics)
        decided = False
        if not statistics.is_finite:
            self._count_nonfinite("statistics")
            self._policy.count(samples)
        elif self.wants_test(statistics.batch_size):
            decision = self._policy.suggest(self.smoothing(statistics))
            if self.error_bars is not None:
                self.error_bars.observe(statistics, self.criterion)
                reason = self.error_bars.missing(self.criterion)
                if reason is not None:
                    self._warn_once("no interval", reason)
            if math.isnan(decision.batch_size):
                self._count_nonfinite(f"batch size suggested by {decision.criterion}")
            elif decision.batch_size != statistics.batch_size:
                self._change(self._size_within_limits(decision.batch_size))
            self.last_decision, decided = decision, decision.decided
            self._gradient = {
                "grad/norm_sq": statistics.mean_sq_norm,
                "grad/var": statistics.variance_norm,
                "gns": statistics.noise_scale,
            }
        else:
            self._policy.count(samples)
            if self.reads_statistics and self.batch_size == 1 < self.max_batch_size:
                self._warn_once(
                    "batch of one",
                    "a batch of one sample has no variance, so the batch size stays 1: "
                    "start with batch_size=2 or more",
                )
        usable = statistics.is_finite and statistics.batch_size >= 2
        loss = statistics.loss if loss is None else loss
        size = self._count(samples, loss, statistics if usable else None, decided=decided)
        if statistics.agreement is not None:
            statistics.agreement.decided = (size, self.samples_seen, self.steps)
        return size

    def step(self, samples: int, *, loss: float | Tensor | None = None) -> int:
        """Counts an optimizer step of ``samples`` samples without statistics.

        Args:
            samples: in the step, over all micro-batches and ranks.
            loss: mean loss of the batch, for ``signatures``.

        Returns:
            The size of the next batch.
        """
        samples = require_int("samples", samples, at_least=1)
        self._policy.count(samples)
        return self._count(samples, loss)

    def metrics(self) -> dict[str, float]:
        """Flat numbers for a log, under stable names.

        Always present: ``batch/global``, ``batch/average``, ``samples_seen``, ``steps``,
        ``nonfinite_steps``. After the first test also those of the latest one: ``batch/suggested``
        (T), ``test/passed`` (1 or 0), ``test/<constant>_min`` (the smallest constant that would
        have passed), ``grad/norm_sq``, ``grad/var`` and ``gns``; with ``error_bars`` the ends of
        their intervals, ``gns_low`` and ``gns_high``.
        """
        metrics = {
            "batch/global": float(self.batch_size),
            "batch/average": self.average_batch_size,
            "samples_seen": float(self.samples_seen),
            "steps": float(self.steps),
            "nonfinite_steps": float(self.nonfinite_steps),
        }
        if self.last_decision is not None:
            metrics["batch/suggested"] = self.last_decision.batch_size
            metrics["test/passed"] = float(self.last_decision.passed)
            for name, value in self.last_decision.smallest_constants.items():
                metrics[f"test/{name}_min"] = value
        bars = {} if self.error_bars is None else self.error_bars.metrics
        return metrics | self._gradient | bars

    def state_dict(self) -> dict[str, Any]:
        """Returns all that changes in training, as plain JSON types.

        A criterion that keeps tensors (``BatchSizeRule``) puts them under ``criterion_state``.
        """
        state = ControllerState(
            batch_size=self.batch_size,
            min_batch_size=self.min_batch_size,
            samples_seen=self.samples_seen,
            steps=self.steps,
            nonfinite_steps=self.nonfinite_steps,
            last_decision=self.last_decision,
            gradient=dict(self._gradient),
            changed=self._changed,
        )
        # Absent where nobody asks, so that states of runs without error bars stay as they were.
        bars = {} if self.error_bars is None else {"error_bars": self.error_bars.state_dict()}
        return {
            "criterion": self._policy.settings,
            "criterion_state": self._policy.state_dict(),
            **state.saved(),
            "smoothing": self.smoothing.state_dict(),
            "signatures": self.signatures.state_dict(),
            **bars,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state_dict``.

        Settings are the constructor's: the cap or the interval may differ from the saved run's.

        Raises:
            ValueError: if keys are missing, the criterion is another one or the size does not
                fit this controller; nothing has changed then.
        """
        require_keys("BatchController", state, self.state_dict())
        require_equal("BatchController", "criterion", state["criterion"], self._policy.settings)
        saved = ControllerState.of(
            state, round_to=self.round_to, max_batch_size=self.max_batch_size
        )
        parts: list[tuple[Any, Any]] = [
            (self.smoothing, state["smoothing"]),
            (self.signatures, state["signatures"]),
            (self._policy, state["criterion_state"]),
        ]
        if self.error_bars is not None:
            parts.append((self.error_bars, state["error_bars"]))
        load_all(parts)
        self.batch_size, self.min_batch_size = saved.batch_size, saved.min_batch_size
        self.samples_seen, self.steps = saved.samples_seen, saved.steps
        self.nonfinite_steps = saved.nonfinite_steps
        self.last_decision, self._gradient = saved.last_decision, saved.gradient
        self._changed = saved.changed

    def _require_averages(self, criterion: Any) -> None:
        """Refuse smoothing for a criterion that reads what is not averaged."""
        single = {"needs_variance": "coordinate", "layerwise": "parameter", "matrixwise": "matrix"}
        for attribute, what in single.items():
            if self.smoothing.beta and getattr(criterion, attribute, False):
                raise ValueError(
                    f"smoothing={self.smoothing.beta} does not average the statistics of every "
                    f"{what}, which {criterion.name} reads: use smoothing=0"
                )

    def _size_within_limits(self, suggestion: float) -> int:
        return next_size(
            suggestion,
            self.batch_size,
            low=self.min_batch_size if self.allow_shrink else self.batch_size,
            high=self.max_batch_size,
            round_to=self.round_to,
            growth_cap=self.growth_cap,
            hysteresis=1.0 if self._policy.says_every_size else self.hysteresis,
        )

    def _count(
        self,
        samples: int,
        loss: float | Tensor | None,
        statistics: GradientStatistics | None = None,
        *,
        decided: bool = False,
    ) -> int:
        scheduled = self._policy.scheduled(
            self.samples_seen + samples,
            least=0 if self.allow_shrink else self.batch_size,
            largest=self.max_batch_size,
            round_to=self.round_to,
        )
        if scheduled is not None:
            self._change(self._size_within_limits(scheduled))
        self.samples_seen += samples
        self.steps += 1
        # A tensor would keep the graph of its step.
        loss = loss.item() if isinstance(loss, Tensor) else loss
        self.signatures.observe(self._snapshot(), loss, statistics, decided=decided)
        return self.batch_size

    def _change(self, size: int) -> None:
        if size != self.batch_size:
            self._changed = self.steps + 1
        self.batch_size = size

    def _snapshot(self) -> Snapshot:
        return Snapshot(
            criterion=self.criterion,
            steps=self.steps,
            batch_size=self.batch_size,
            min_batch_size=self.min_batch_size,
            max_batch_size=self.max_batch_size,
            last_decision=self.last_decision,
            brakes={
                "test_interval": self.test_interval,
                "hysteresis": self.hysteresis,
                "cooldown": self.cooldown,
                "growth_cap": self.growth_cap,
            },
        )

    def _count_nonfinite(self, what: str) -> None:
        self.nonfinite_steps += 1
        self._warn_once(
            "non-finite",
            f"step {self.steps + 1}: non-finite {what}; the batch size stays {self.batch_size}. "
            "Further such steps are only counted (nonfinite_steps)",
        )

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            _logger.warning(message)
