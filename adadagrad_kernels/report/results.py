"""The table of results: one row for each way to train, means and standard errors over its seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adadagrad_kernels.report.curves import number
from adadagrad_kernels.report.runs import Run


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, with its standard error where there are several."""

    value: float
    error: float | None = None

    def text(self, spec: str, scale: float = 1.0, unit: str = "") -> str:
        """Formats both for people."""
        text = format(self.value * scale, spec)
        if self.error:
            text += f" ± {format(self.error * scale, spec)}"
        return text + unit


@dataclass(frozen=True)
class Row:
    """The results of one way to train.

    Attributes:
        name: Of the way to train.
        seeds: How many runs it is the mean of.
        unfinished: Of these, how many have not come to their end.
        means: By name; None where a seed has no such number.
    """

    name: str
    seeds: int
    unfinished: int
    means: Mapping[str, Mean | None]

    def values(self) -> dict[str, Any]:
        """Returns the row as plain JSON types."""
        row: dict[str, Any] = {
            "run": self.name,
            "seeds": self.seeds,
            "unfinished": self.unfinished,
        }
        for name, mean in self.means.items():
            row[name] = None if mean is None else mean.value
            row[f"{name}_error"] = None if mean is None else mean.error
        return row


# Title, name, and how the number is written: specification, factor, unit.
COLUMNS: tuple[tuple[str, str, str, float, str], ...] = (
    ("steps", "steps", ",.0f", 1, ""),
    ("samples", "samples_seen", ",.0f", 1, ""),
    ("avg. batch", "batch/average", ",.1f", 1, ""),
    ("last loss", "last_loss", ".4f", 1, ""),
    ("best acc.", "best_accuracy", ".2f", 100, " %"),
    ("last acc.", "last_accuracy", ".2f", 100, " %"),
    ("seconds", "seconds", ",.2f", 1, ""),
    ("seconds to common acc.", "seconds_to_common_accuracy", ",.2f", 1, ""),
    ("statistics", "statistics_share", ".1f", 100, " %"),
)


def common_accuracy(groups: Mapping[str, Sequence[Run]]) -> float | None:
    """Returns the best accuracy that every finished run reached; of all, where none is finished."""
    runs = [run for seeds in groups.values() for run in seeds]
    runs = [run for run in runs if run.finished] or runs
    bests = [best for run in runs if (best := _best_accuracy(run)) is not None]
    return min(bests) if bests else None


def table(groups: Mapping[str, Sequence[Run]]) -> list[Row]:
    """Returns a row for each group."""
    level = common_accuracy(groups)
    measures: dict[str, Callable[[Run], float | None]] = {
        "steps": lambda run: _last(run, "steps"),
        "samples_seen": lambda run: _last(run, "samples_seen"),
        "batch/average": _average_batch,
        "last_loss": lambda run: _last(run, "train_loss", "loss"),
        "best_accuracy": _best_accuracy,
        "last_accuracy": lambda run: _last(run, "test_accuracy"),
        "seconds": lambda run: _last(run, "seconds"),
        "seconds_to_common_accuracy": lambda run: _seconds_to(run, level),
        "statistics_share": lambda run: _last(run, "statistics_share"),
    }
    return [
        Row(
            name,
            len(runs),
            sum(not run.finished for run in runs),
            {measure: _mean([find(run) for run in runs]) for measure, find in measures.items()},
        )
        for name, runs in groups.items()
    ]


def cells(row: Row) -> list[str]:
    """Returns the cells of a row for people, the name first."""
    return [
        row.name,
        str(row.seeds),
        *(
            "–" if (mean := row.means[name]) is None else mean.text(spec, scale, unit)
            for _, name, spec, scale, unit in COLUMNS
        ),
        state(row),
    ]


def header() -> list[str]:
    """Returns the titles of the cells."""
    return ["", "seeds", *(title for title, *_ in COLUMNS), "state"]


def state(row: Row) -> str:
    """Says whether the runs have come to their end."""
    if not row.unfinished:
        return "finished"
    return "unfinished" if row.seeds == 1 else f"{row.unfinished} of {row.seeds} unfinished"


def _mean(values: Sequence[float | None]) -> Mean | None:
    found = [value for value in values if value is not None]
    if len(found) < len(values) or not found:
        return None
    if len(found) == 1:
        return Mean(found[0])
    return Mean(statistics.fmean(found), statistics.stdev(found) / math.sqrt(len(found)))


def _last(run: Run, *names: str) -> float | None:
    """Returns the last number; None where it was not finite, so that no older one stands for it."""
    for name in names:
        values = [number(line, name) for line in run.lines if name in line]
        if values:
            return values[-1]
    return None


def _average_batch(run: Run) -> float | None:
    average = _last(run, "batch/average")
    if average is None and (steps := _last(run, "steps")):
        average = run.lines[-1]["samples_seen"] / steps
    return average


def _accuracies(run: Run) -> list[tuple[float | None, float]]:
    return [
        (number(line, "seconds"), accuracy)
        for line in run.lines
        if (accuracy := number(line, "test_accuracy")) is not None
    ]


def _best_accuracy(run: Run) -> float | None:
    return max((accuracy for _, accuracy in _accuracies(run)), default=None)


def _seconds_to(run: Run, level: float | None) -> float | None:
    if level is None:
        return None
    return next((seconds for seconds, accuracy in _accuracies(run) if accuracy >= level), None)
