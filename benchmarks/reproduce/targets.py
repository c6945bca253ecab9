"""When a run first reached what was to be reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


class Targets:
    """Keeps, for each target, the counts at the first evaluation that met it.

    Args:
        wanted: values by metric. A metric whose name ends in ``accuracy`` meets a value from
            above, any other, a loss or a norm, from below.
    """

    def __init__(self, wanted: Mapping[str, Sequence[float]]) -> None:
        self.reached: dict[str, dict[str, float] | None] = {
            name(metric, value): None for metric, values in wanted.items() for value in values
        }
        self._wanted = wanted

    def see(self, metrics: Mapping[str, float], counts: Mapping[str, float]) -> None:
        """Take an evaluation and what had been spent until then."""
        for metric, values in self._wanted.items():
            for value in values:
                place = name(metric, value)
                if self.reached[place] is None and _meets(metric, metrics[metric], value):
                    self.reached[place] = dict(counts)


def name(metric: str, value: float) -> str:
    """The name of a target, as in ``test_accuracy 0.96``."""
    return f"{metric} {value:g}"


def at(result: Mapping[str, Any], metric: str, value: float) -> dict[str, float] | None:
    """What a stored run had spent when it met a target; None where it did not."""
    found: dict[str, float] | None = result["targets"].get(name(metric, value))
    return found


def _meets(metric: str, found: float, value: float) -> bool:
    if math.isnan(found):
        return False
    return found >= value if metric.endswith("accuracy") else found <= value
