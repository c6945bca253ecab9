"""The ways in which adaptive batches fail, named as they are seen, with the knob to turn."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from adadagrad_kernels.batching import _advice as advice
from adadagrad_kernels.batching.smoothing import SmoothedStatistics
from adadagrad_kernels.batching.snapshot import Snapshot
from adadagrad_kernels.settings import require_factor, require_int, require_keys

if TYPE_CHECKING:
    from adadagrad_kernels.statistics import GradientStatistics

_logger = logging.getLogger("adadagrad_kernels")

#: Weight of the past in the averages of loss and noise.
_BETA = 0.9
#: The loss improves where its average falls by this share of the best.
_IMPROVEMENT = 1e-3
#: A loss that is far up for fewer steps has not diverged.
_MOMENT = 5
#: Noise dominates where the noise scale is so many batches.
_DOMINATES = 3.0


@dataclass(frozen=True)
class Finding:
    """A failure signature that was seen.

    Attributes:
        name: ``"diverges"``, ``"cap_at_once"``, ``"cap_binds"``, ``"plateaus"`` or
            ``"growth_lacks"``.
        step: the optimizer step at which it was seen first.
        text: what was seen, and the knob to turn with its value now.
    """

    name: str
    step: int
    text: str


class FailureSignatures:
    """Watches a controller and the loss, and reports each failure signature once.

    ==============  ============================================  ==================================
    name            what is seen                                  the knob
    ==============  ============================================  ==================================
    diverges        the loss is not finite, or far above its      the learning rate; a larger first
                    best and its beginning                        batch
    cap_at_once     the largest size within the first tests       the constants, for smaller
                                                                  batches; ``growth_cap``
    cap_binds       most steps at the cap, which the test wants   ``max_batch_size``; a smaller
                    to exceed                                     learning rate
    plateaus        the size and the loss both stand still, and   the constants, for larger
                    noise does not dominate                       batches; the learning rate
    growth_lacks    the loss stands still while noise dominates,  the constants, for larger batches;
                    and the size does not grow                    what else holds growth back
    ==============  ============================================  ==================================

    Noise dominates if the average gradient noise scale is more than three batches. The loss stands
    still if its average has not improved by a thousandth within ``patience`` steps; the size does
    if the criterion has decided since, and kept it. Findings that need the loss stay silent without
    it: pass it to ``BatchController.update``, unless the statistics have it. The criterion says
    which way its constants go (``larger_batches``). Reports are warnings of
    ``logging.getLogger("adadagrad_kernels")``.

    Args:
        patience: steps of standing still that are not yet a failure.
        early: steps within which the largest size comes too soon.
        factor: the loss diverges if it stays this many times above its best average and its
            beginning for a tenth of ``patience``.
        words: names of the knobs for the reader of the reports, such as ``{"eta": "--eta"}`` for a
            command; by default they are the names of the arguments in Python.

    Attributes:
        findings: what was seen so far.

    Raises:
        ValueError: for arguments out of range.

    Example:
        >>> from adadagrad_kernels.batching import BatchController, FailureSignatures
        >>> from adadagrad_kernels.criteria import NormTest
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> controller = BatchController(
        ...     NormTest(eta=0.01), batch_size=8, max_batch_size=512, signatures=FailureSignatures()
        ... )
        >>> noisy = GradientStatistics(batch_size=8, mean_sq_norm=1.0, sum_sq_norms=80.0)
        >>> controller.update(noisy)
        512
        >>> [finding.name for finding in controller.signatures.findings]
        ['cap_at_once']
    """

    def __init__(
        self,
        *,
        patience: int = 200,
        early: int = 5,
        factor: float = 2.0,
        words: Mapping[str, str] | None = None,
    ) -> None:
        self.patience: int = require_int("patience", patience, at_least=1)
        self.early: int = require_int("early", early, at_least=1)
        self.factor: float = require_factor("factor", factor, above=1.0)
        self.words: dict[str, str] = {"lr": "learning rate", **(words or {})}
        self.findings: list[Finding] = []
        self._loss = self._weight = 0.0
        self._smoothed = SmoothedStatistics(_BETA)
        self._noise = 0.0
        self._first: float | None = None
        self._best: float | None = None
        self._improved = self._grown = self._at_cap = self._far = self._decided = 0
        self._size: int | None = None

    def observe(
        self,
        now: Snapshot,
        loss: float | None = None,
        statistics: GradientStatistics | None = None,
        *,
        decided: bool = False,
    ) -> None:
        """Look at a controller that has just counted a step.

        Args:
            now: the controller after the step.
            loss: mean loss of the step's batch, or None.
            statistics: of the step, finite and of two samples or more, or None.
            decided: whether the criterion decided on the size at this step.
        """
        if statistics is not None:
            self._noise = self._smoothed(statistics).noise_scale
        steps, size = now.steps, now.batch_size
        if self._size is not None and size > self._size:
            self._grown = steps
        self._size = size
        adaptive = now.criterion is not None
        at_cap = adaptive and size >= now.max_batch_size > now.min_batch_size
        self._at_cap += at_cap
        if loss is not None:
            self._observe_loss(now, loss)
        decision = now.last_decision
        if decision is None:
            return
        self._decided = steps if decided else self._decided
        if at_cap and steps <= self.early:
            fewer = advice.constants(now, self.words, larger=False)
            cap = advice.knob("growth_cap", now.brakes["growth_cap"], self.words)
            self._report(
                now,
                "cap_at_once",
                f"the batch has its largest size, {size:,}, after {steps} steps, because the "
                f"constants ask for it at this noise. Knobs: {fewer}, or {cap}, which bounds each "
                "growth",
            )
        wanted, largest = decision.batch_size, self.words.get("max_batch_size", "max_batch_size")
        if steps >= self.patience and 2 * self._at_cap > steps and wanted > now.batch_size:
            self._report(
                now,
                "cap_binds",
                f"{self._at_cap:,} of {steps:,} steps at {largest} {size:,}, where the last "
                f"test asked for {wanted:,.0f}. Knobs: a larger {largest} (memory bounds the "
                f"micro-batch, not the batch), or a {self.words['lr']} that falls from here on",
            )
        since = max(self._improved, self._grown)
        still = steps - since >= self.patience and self._decided > since
        if self._first is not None and not at_cap and still:
            self._observe_standstill(now)

    def _observe_loss(self, now: Snapshot, loss: float) -> None:
        first = advice.knob("batch_size", now.min_batch_size, self.words)
        rate = f"Knobs: a smaller {self.words['lr']}, or a larger first batch, {first}"
        if not math.isfinite(loss):
            self._report(now, "diverges", f"the loss is {loss}. {rate}")
            return
        self._loss = _BETA * self._loss + (1.0 - _BETA) * loss
        self._weight = _BETA * self._weight + 1.0 - _BETA
        average = self._loss / self._weight
        self._first = average if self._first is None else self._first
        if self._best is None or average < self._best - _IMPROVEMENT * abs(self._best):
            self._best, self._improved = average, now.steps
        far = loss - self._best > self.factor * max(abs(self._first), abs(self._best))
        # A first step of full length, as AdaGrad's, may throw the loss up for a moment.
        self._far = self._far + 1 if far else 0
        if self._far >= max(_MOMENT, self.patience // 10):
            self._report(
                now,
                "diverges",
                f"the loss is {loss:.4g}, and has been far above its best average, "
                f"{self._best:.4g}, for {self._far} steps. {rate}",
            )

    def _observe_standstill(self, now: Snapshot) -> None:
        noise, size = self._noise, now.batch_size
        for_steps = f"size {size:,} and loss {self._best:.4g} stand still for {self.patience} steps"
        more = advice.constants(now, self.words, larger=True)
        if noise > _DOMINATES * size:
            self._report(
                now,
                "growth_lacks",
                f"{for_steps} or more, while the noise scale is {noise:,.0f}. Knobs: {more}"
                + advice.brakes(now, self.words),
            )
        else:
            self._report(
                now,
                "plateaus",
                f"{for_steps} or more, and the test passes. Knobs: {more} where noise hinders the "
                f"loss, else the {self.words['lr']}",
            )

    def _report(self, now: Snapshot, name: str, text: str) -> None:
        if any(finding.name == name for finding in self.findings):
            return
        self.findings.append(Finding(name, now.steps, text))
        _logger.warning("step %d: %s: %s", now.steps, name, text)

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers, as plain JSON types."""
        return {
            "findings": [asdict(finding) for finding in self.findings],
            "loss": [self._loss, self._weight, self._first, self._best],
            "steps": [self._improved, self._grown, self._at_cap, self._far, self._decided],
            "size": self._size,
            "smoothed": self._smoothed.state_dict(),
            "noise": self._noise if math.isfinite(self._noise) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: if keys are missing or the findings are none; nothing has changed then.
        """
        require_keys("FailureSignatures", state, self.state_dict())
        try:
            findings = [Finding(**finding) for finding in state["findings"]]
        except TypeError as error:
            raise ValueError(
                f"saved findings are {state['findings']!r}; accepted are the fields of a Finding: "
                "load what state_dict() returned"
            ) from error
        loss, weight, first, best = state["loss"]
        improved, grown, at_cap, far, decided = state["steps"]
        self._smoothed.load_state_dict(state["smoothed"])
        self.findings = findings
        self._loss, self._weight, self._first, self._best = loss, weight, first, best
        self._improved, self._grown, self._at_cap, self._far = improved, grown, at_cap, far
        self._decided = decided
        self._size = state["size"]
        self._noise = math.inf if state["noise"] is None else state["noise"]
