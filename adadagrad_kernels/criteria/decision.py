"""The protocol of batch-size tests, and their decisions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from adadagrad_kernels.statistics import GradientStatistics

#: Squared norm of the mean gradient below which it says nothing about the batch size.
NEGLIGIBLE_SQ_NORM = 1e-12


@dataclass(frozen=True)
class Decision:
    """The batch size that a test asks for.

    Attributes:
        criterion: name of the test.
        batch_size: T, the least batch size with which the test would have held for the measured
            variance: a real number, before rounding; infinite or NaN where the statistics are.
        passed: whether the test holds, T <= b. False for NaN.
        smallest_constants: for each constant of the test, the smallest value with which it would
            still hold on this batch; plot it beside the batch size.
        decided: False if the criterion does not decide at this step, as within an epoch or a
            window of steps that it takes together; T is then the size of the batch.

    Example:
        >>> from adadagrad_kernels.criteria import Decision
        >>> Decision("norm_test", 375.03, passed=False, smallest_constants={"eta": 0.68}).passed
        False
    """

    criterion: str
    batch_size: float
    passed: bool
    smallest_constants: dict[str, float]
    decided: bool = True


class BatchSizeCriterion(Protocol):
    """A batch-size test: a callable from statistics to a decision.

    Attributes:
        name: snake_case name, for logs.
        needs_variance: whether it reads the coordinate-wise variance.
        needs_inner_products: whether it reads the inner products with the mean gradient.

    Four more are optional. ``larger_batches``, a mapping from each of its constants to the change
    that makes batches larger, ``"smaller"`` or ``"larger"``: ``FailureSignatures`` reads it.
    ``size_at(noise_scale, batch_size)``, T as a rising function of the noise scale V / |G|² alone:
    with it ``BatchController(error_bars=...)`` gives T an interval.
    ``interval(statistics, level)`` gives it directly, or None; ``no_interval`` says why there is
    none, as words after a colon.

    Example:
        >>> from adadagrad_kernels.criteria import BatchSizeCriterion, NormTest
        >>> criterion: BatchSizeCriterion = NormTest(eta=0.5)
        >>> criterion.name, criterion.needs_variance, criterion.needs_inner_products
        ('norm_test', False, False)
    """

    @property
    def name(self) -> str:
        """snake_case name, for logs."""

    @property
    def needs_variance(self) -> bool:
        """Whether it reads the coordinate-wise variance."""

    @property
    def needs_inner_products(self) -> bool:
        """Whether it reads the inner products with the mean gradient."""

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Decide on the statistics of one batch."""


@runtime_checkable
class BatchSizeRule(BatchSizeCriterion, Protocol):
    """A criterion that remembers earlier steps: a window, an average, an epoch.

    Its decisions depend on the order of the steps, so it is told of every step: by a call if the
    step was measured, by ``count`` if not. ``state_dict`` holds everything it remembers, as plain
    JSON types and tensors.

    Example:
        >>> from adadagrad_kernels.criteria import BatchSizeRule, NormTest
        >>> isinstance(NormTest(eta=0.5), BatchSizeRule)
        False
    """

    def wants_statistics(self, samples: int) -> bool:
        """Whether it reads the statistics of the next step, of ``samples`` samples."""

    def count(self, samples: int) -> None:
        """Take note of a step of ``samples`` samples that was not measured."""

    def state_dict(self) -> dict[str, Any]:
        """All that it remembers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``; nothing changes where that raises ValueError."""


def check_constant(name: str, value: float) -> None:
    """Refuse constants for which a test has no meaning.

    Raises:
        ValueError: unless 0 < value < infinity.
    """
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number greater than 0, got {value}")


def keep_size(criterion: str, statistics: GradientStatistics, *constants: str) -> Decision:
    """The decision if the mean gradient vanishes: the test holds, whatever its constants."""
    return Decision(
        criterion, float(statistics.batch_size), True, {constant: 0.0 for constant in constants}
    )


def not_yet(
    criterion: str, statistics: GradientStatistics, constants: Mapping[str, float] | None = None
) -> Decision:
    """The decision of a criterion that takes several steps together, before the last of them."""
    size = float(statistics.batch_size)
    return Decision(criterion, size, True, dict(constants or {}), decided=False)


def decide(
    criterion: str,
    statistics: GradientStatistics,
    noise_to_signal: dict[str, float],
    constants: dict[str, float],
) -> Decision:
    """Require noise / (b signal) <= constant^2 of every part of a test.

    T is the largest noise / (signal constant^2); a constant of sqrt(noise / (b signal)) would
    just do.

    Args:
        criterion: name of the test.
        statistics: the batch.
        noise_to_signal: the measured ratio of each part.
        constants: the constant of each part.
    """
    # Divided twice, because the square of a small constant can vanish.
    sizes = [ratio / constants[part] / constants[part] for part, ratio in noise_to_signal.items()]
    size = math.nan if any(map(math.isnan, sizes)) else max(sizes)
    return Decision(
        criterion,
        size,
        size <= statistics.batch_size,
        {part: math.sqrt(ratio / statistics.batch_size) for part, ratio in noise_to_signal.items()},
    )
