"""Figures of several seeds as tables of a Markdown page."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.reproduce import targets
from benchmarks.reproduce.results import groups

NONE = "–"


def paragraph(text: str, **values: object) -> list[str]:
    """The lines of paragraphs, with values put in for their names in braces."""
    lines = []
    for part in text.format(**values).split("\n\n"):
        lines += [*textwrap.wrap(" ".join(part.split()), 100), ""]
    return lines


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; the first column to the left, numbers to the right."""
    line = " | ".join
    rule = line(["---", *["---:"] * (len(header) - 1)])
    return [f"| {line(header)} |", f"| {rule} |", *(f"| {line(row)} |" for row in rows), ""]


def mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and its standard error, which a single value has not."""
    if len(values) < 2:
        return statistics.fmean(values), None
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


#: Writes a value, with the digits that another one would get.
Style = Callable[[float, float], str]


def cell(values: Sequence[float | None], style: Style) -> str:
    """Mean ± standard error; NaN and infinities, kept as None, leave nothing to say."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return NONE
    centre, error = mean(known)
    text = style(centre, centre)
    return text if error is None else f"{text} ± {style(error, centre)}"


def whole(value: float, like: float) -> str:
    """Steps and samples: with a fraction where they are few."""
    return f"{value:,.1f}" if 0 < abs(like) < 10 and like != round(like) else f"{value:,.0f}"


def percent(value: float, like: float) -> str:
    """Accuracies."""
    return f"{100 * value:.2f}{' %' if value == like else ''}"


def short(value: float, like: float) -> str:
    """Three digits, as for seconds and losses."""
    digits = 2 if like == 0 else max(0, 2 - math.floor(math.log10(abs(like))))
    return f"{value:,.{digits}f}" if digits <= 6 else f"{value:.2e}"


def slope(value: float, like: float) -> str:
    """Exponents."""
    return f"{value:.3f}"


#: What is shown of the end of a training: head, metric, style.
LOSS_AND_ACCURACY = (
    ("training loss", "train_loss", short),
    ("test accuracy", "test_accuracy", percent),
)


def share(runs: Sequence[dict[str, Any]]) -> str:
    """Statistics' part of the seconds of all runs together."""
    seconds = sum(run["result"]["seconds"] for run in runs)
    spent = sum(run["result"]["statistics_seconds"] for run in runs)
    if not any(run["settings"]["plan"]["growth"].get("rule") in TESTED for run in runs):
        return NONE
    # A difference of timings, whose noise may put it below zero.
    return "≈ 0 %" if spent < 0.005 * seconds else f"{100 * spent / seconds:.0f} %"


#: The rules of growth that need statistics.
TESTED = ("norm", "diversity", "metric", "spectral", "adabatchgrad")


def spent_to(
    runs: Sequence[dict[str, Any]], metric: str, value: float, tokens: int = 1
) -> list[str]:
    """Steps, samples or tokens, and seconds to a target.

    Where not all seeds reached it, the means are of those that did, and their number is said.
    """
    found = [targets.at(run["result"], metric, value) for run in runs]
    reached = [counts for counts in found if counts is not None]
    if not reached:
        return ["not reached", NONE, NONE]
    some = "" if len(reached) == len(found) else f" ({len(reached)} of {len(found)})"
    steps, samples, seconds = (
        [counts[name] for counts in reached] for name in ("steps", "samples", "seconds")
    )
    drawn = [tokens * count for count in samples]
    return [cell(steps, whole) + some, cell(drawn, whole), cell(seconds, short)]


def final(runs: Sequence[dict[str, Any]], metric: str) -> list[float | None]:
    """A metric at the end of every run."""
    return [None if r["result"]["diverged"] else r["result"]["final"][metric] for r in runs]


def training_table(
    runs: list[dict[str, Any]],
    metric: str,
    value: float,
    finals: Sequence[tuple[str, str, Style]],
    *,
    tokens: int | None = None,
    timed: bool = True,
) -> list[str]:
    """A row for each method: what the budget and what a target took, and where it ended.

    Args:
        runs: of one task.
        metric: of the target.
        value: the target.
        finals: head of the column, metric and style of what is shown of the end.
        tokens: of a sample, to count them in place of samples.
        timed: whether seconds, and the share of the statistics in them, are shown.
    """
    text = f"{100 * value:g} %" if metric.endswith("accuracy") else f"{value:g}"
    header = ["", "seeds", "steps", "average batch"]
    header += ["seconds", "of it statistics"] if timed else []
    header += [f"steps to {text}", f"{'tokens' if tokens else 'samples'} to it"]
    header += ["seconds to it"] if timed else []
    header += [head for head, _, _ in finals]
    rows = []
    for _, method, members in groups(runs):
        results = [run["result"] for run in members]
        steps = cell([r["steps"] for r in results], whole)
        average = cell([r["samples"] / r["steps"] for r in results], whole)
        seconds = [cell([r["seconds"] for r in results], short), share(members)] if timed else []
        spent = spent_to(members, metric, value, tokens or 1)
        ends = [cell(final(members, name), style) for _, name, style in finals]
        spent = spent if timed else spent[:2]
        rows.append([method, str(len(members)), steps, average, *seconds, *spent, *ends])
    return table(header, rows)


def tasks(runs: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each task, in order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault(run["task"], []).append(run)
    return found
