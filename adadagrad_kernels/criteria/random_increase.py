"""Batches that grow by chance: the baseline that a test must beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar

from adadagrad_kernels.criteria.decision import Decision, keep_size
from adadagrad_kernels.settings import require_int, require_numbers
from adadagrad_kernels.statistics import GradientStatistics


@dataclass(eq=False)
class RandomIncrease:
    """Enlarges the batch a little, now and then, whatever the gradients are.

    T = factor b with the given probability in a step, else T = b (the alternative to its test in
    a port of the code of AdaBatchGrad, Ostroukhov et al., arXiv 2402.05264). It reads no
    statistics. Equal seeds draw alike in every process, so all ranks decide the same.

    Attributes:
        probability: from 0 to 1.
        factor: finite and greater than 1.
        seed: any integer.

    Raises:
        ValueError: for other values.

    Example:
        >>> from adadagrad_kernels.criteria import RandomIncrease
        >>> from adadagrad_kernels.statistics import GradientStatistics
        >>> batch = GradientStatistics(batch_size=200, mean_sq_norm=1.0, sum_sq_norms=300.0)
        >>> RandomIncrease(probability=1.0)(batch).batch_size
        202.0
    """

    probability: float = 0.005
    factor: float = 1.01
    seed: int = 0
    _draws: int = field(default=0, init=False, repr=False)
    name = "random_increase"
    needs_variance = False
    needs_inner_products = False
    larger_batches: ClassVar[Mapping[str, str]] = {"probability": "larger", "factor": "larger"}

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability must be from 0 to 1, got {self.probability}")
        if not 1.0 < self.factor < float("inf"):
            raise ValueError(f"factor must be a finite number greater than 1, got {self.factor}")

    def __call__(self, statistics: GradientStatistics) -> Decision:
        """Draw once."""
        # Seeded by the number of the draw, so that this number is all there is to remember.
        drawn = Random(f"{self.seed} {self._draws}").random()
        self._draws += 1
        if drawn >= self.probability:
            return keep_size(self.name, statistics)
        return Decision(self.name, self.factor * statistics.batch_size, False, {})

    def wants_statistics(self, samples: int) -> bool:
        """Every step draws, where the controller tests it."""
        return True

    def count(self, samples: int) -> None:
        """A step that was not tested does not draw."""

    def state_dict(self) -> dict[str, Any]:
        """How often it drew."""
        return {"draws": self._draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Raises:
            ValueError: for the state of something else; nothing has changed then.
        """
        saved = require_numbers("RandomIncrease", state, {"draws"})
        self._draws = require_int("saved draws", saved["draws"], at_least=0)
