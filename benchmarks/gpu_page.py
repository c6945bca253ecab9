"""The page of a GPU report, from what was measured; and the same as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_contenders import COPY
from gpu_measure import Result, Results

from benchmarks.measuring.interleaved import Spread

HEAD = """\
# GPU report

`make gpu-report` on a machine with a GPU wrote this page: the tests marked `gpu` ran on the device,
then every op was timed beside torch and beside a copy within the device.

## How it was measured

Time is the device's own, between two events around a call. In each round all contenders run once,
one after the other, in an order that moves on by one; a ratio is formed within its round. Reported
are the median over rounds and, in brackets, the quartiles: where these are far apart, something
else kept the device busy, and the row says little.

"Copy of the same bytes" is a copy within the device that reads half of the least bytes and writes
the other half: the least any kernel could take. GB/s are least bytes over time, so that whoever
moves more shows less. Before each call other data fills the L2 cache, except where the table says
that calls follow one another: there the time is of many calls back to back, launches included.
Torch's expressions keep sums and norms in the element type or in float32, ours in float32 and
float64.
"""


@dataclass(frozen=True)
class Outcome:
    """How the tests, or one tool of compute-sanitizer, went.

    Attributes:
        what: ran.
        passed: or not; None where it did not run.
        details: counts, names of what failed, or why it did not run.
    """

    what: str
    passed: bool | None
    details: str


@dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        machine: facts of the device and of the software, by name.
        outcomes: of tests and sanitizers.
        results: of the measurements.
    """

    machine: Mapping[str, str]
    outcomes: Sequence[Outcome]
    results: Results

    @property
    def failed(self) -> list[str]:
        """What must not be overlooked: failed tests, findings, and ops of ours that raised."""
        found = [f"{o.what}: {o.details}" for o in self.outcomes if o.passed is False]
        for result in self.results.measured:
            found += [
                f"{result.case.op}, {result.case.title}: {name}: {error}"
                for name, error in result.failed.items()
                if not name.startswith("torch")
            ]
        return found


def page(report: Report) -> str:
    """The whole page."""
    parts = [HEAD, "## Where\n", _table(["what", "value"], list(report.machine.items()))]
    words = {True: "passed", False: "FAILED", None: "did not run"}
    outcomes = [(o.what, words[o.passed], o.details) for o in report.outcomes]
    parts += ["## Right\n", _table(["what", "outcome", "details"], outcomes)]
    for op in dict.fromkeys(result.case.op for result in report.results.measured):
        parts.append(f"## {op}\n")
        parts += [_case(result) for result in report.results.measured if result.case.op == op]
    if report.results.left_out:
        parts.append("## Left out, for time\n")
        parts.append("".join(f"* {title}\n" for title in report.results.left_out))
    return "\n".join(parts)


def as_data(report: Report) -> dict[str, Any]:
    """The same for other programs."""
    return {
        "machine": dict(report.machine),
        "outcomes": [vars(outcome) for outcome in report.outcomes],
        "cases": [
            {
                "op": result.case.op,
                "case": result.case.title,
                "least_bytes": result.case.least_bytes,
                "flush": result.case.flush,
                "seconds": result.seconds,
                "failed": result.failed,
            }
            for result in report.results.measured
        ],
        "left_out": report.results.left_out,
    }


def _case(result: Result) -> str:
    case = result.case
    rounds = len(next(iter(result.seconds.values()), []))
    caches = (
        "L2 filled with other data before each call" if case.flush else "calls follow one another"
    )
    text = f"{case.title}. Least {case.least_bytes:,} bytes; {rounds} rounds; {caches}.\n\n"
    head = ["contender", "µs", "quartiles", "GB/s", "times the copy", "quartiles"]
    return text + _table(head, list(_rows(result)), right=1)


def _rows(result: Result) -> Iterator[Sequence[str]]:
    for name in sorted(result.seconds, key=lambda name: result.spread(name).median):
        taken, over = result.spread(name), result.over_copy(name)
        speed = result.case.least_bytes / taken.median / 1e9
        yield (
            name,
            f"{taken.median * 1e6:,.1f}",
            _quartiles(taken, 1e6, 1),
            f"{speed:,.0f}",
            f"{over.median:.2f}" if over and name != COPY else "",
            _quartiles(over, 1, 2) if over and name != COPY else "",
        )
    for name, error in result.failed.items():
        yield name, "failed", error, "", "", ""


def _quartiles(found: Spread, scale: float, digits: int) -> str:
    return f"[{found.lower * scale:,.{digits}f}, {found.upper * scale:,.{digits}f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 99) -> str:
    """A table whose columns line up; to the right from the ``right``-th column on."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    rule = ["-" * width if c < right else "-" * (width - 1) + ":" for c, width in enumerate(widths)]
    lines = [
        [
            text.ljust(width) if column < right else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    return "".join("| " + " | ".join(line) + " |\n" for line in [lines[0], rule, *lines[1:]])
