"""What is measured against what, and the ratio aimed at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.measuring.interleaved import Meter, Spread, ratio, rounds_of_seconds, spread

Calls = dict[str, Callable[[], object]]


@dataclass(frozen=True)
class Goal:
    """The ratio of two contenders: at most ``limit``, or at least where ``at_least``."""

    what: str
    numerator: str
    denominator: str
    limit: float
    at_least: bool = False

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass(frozen=True)
class Chosen:
    """A contender that won among several; its name goes into the report."""

    name: str
    call: Callable[[], object]

    def __call__(self) -> object:
        return self.call()


@dataclass(frozen=True)
class Experiment:
    """Contenders that run in the same rounds; made only when their turn comes.

    Attributes:
        title: what ``--only`` looks into.
        contenders: makes them.
        goals: the rows of the table.
        unit: seconds, or bytes.
        meter: measures a contender, once and without rounds; None for rounds of seconds.
        most_rounds: where contenders take seconds.
        missing: why the experiment is left out on this machine, or None.
    """

    title: str
    contenders: Callable[[], Calls]
    goals: list[Goal]
    unit: str = "s"
    meter: Meter | None = None
    most_rounds: int | None = None
    missing: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Settings:
    """Size of G in bytes, threads of torch and of the kernels, and whether time is short."""

    size: int
    threads: int
    quick: bool


def measured_rows(experiment: Experiment, rounds: int) -> Iterator[dict[str, Any]]:
    """Run one experiment; a row for each of its goals."""
    contenders = experiment.contenders()
    rounds = min(rounds, experiment.most_rounds or rounds)
    if experiment.meter is None:
        measured = rounds_of_seconds(contenders, rounds)
    else:
        measured = {name: [experiment.meter(call)] * 2 for name, call in contenders.items()}
    for goal in experiment.goals:
        found: Spread = ratio(measured[goal.numerator], measured[goal.denominator])
        yield {
            "experiment": experiment.title,
            "what": goal.what,
            "chosen": getattr(contenders[goal.numerator], "name", None),
            "measured": found.median,
            "quartiles": [found.lower, found.upper],
            "goal": goal.limit,
            "at_least": goal.at_least,
            "met": goal.met(found.median),
            "unit": experiment.unit,
            "numerator": spread(measured[goal.numerator]).median,
            "denominator": spread(measured[goal.denominator]).median,
        }
