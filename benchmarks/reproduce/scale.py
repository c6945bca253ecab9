"""Seconds of kept runs on workers that are not there, as ``adadagrad-kernels plan`` has them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from adadagrad_kernels.report.hardware import Hardware
from adadagrad_kernels.report.plan import forecasts
from adadagrad_kernels.report.runs import Run
from benchmarks.reproduce import targets
from benchmarks.reproduce.tables import NONE, TESTED

WORKERS = (8, 64, 512)
#: Made up: a step's fixed cost is that of 16 sequences, as where launches and a few layers in a row
#: take longer than the arithmetic of a small batch. 0.42 million parameters in float32.
HARDWARE = Hardware(
    batches=(1.0, 129.0),
    seconds=(0.00425, 0.03625),
    latency=2e-5,
    bandwidth=2.5e10,
    gradient_bytes=1.7e6,
)

TEXT = """\
The way with the fewest mean seconds to {target:g}, among those whose every seed reached it; in
brackets the seconds of the best way with a test over those of the best without, less one.
"""


def step_parts() -> tuple[float, float]:
    """Of a worker's step the seconds that every one takes, and those of each sequence."""
    (first, last), (fast, slow) = HARDWARE.batches, HARDWARE.seconds
    each = (slow - fast) / (last - first)
    return fast - first * each, each


def seconds(
    runs: list[dict[str, Any]],
    metric: str,
    target: float,
    workers: int,
    hardware: Hardware = HARDWARE,
) -> list[float | None]:
    """Simulated seconds of every seed to the target; None where it was not reached."""
    return [
        None
        if targets.at(run["result"], metric, target) is None
        else forecasts({"": [_as_metrics(run)]}, hardware, [workers], metric, target)[0].seconds
        for run in runs
    ]


def verdicts(ways: Mapping[str, list[dict[str, Any]]], metric: str, target: float) -> list[str]:
    """Here and at every number of workers: the fastest way, and whether a test pays."""
    found = []
    for workers in (None, *WORKERS):
        means = {}
        for way, runs in ways.items():
            reached = [targets.at(run["result"], metric, target) for run in runs]
            known = (
                [counts and counts["seconds"] for counts in reached]
                if workers is None
                else seconds(runs, metric, target, workers)
            )
            if known and None not in known:
                means[way] = fmean(value for value in known if value is not None)
        found.append(_verdict(means, {way for way, runs in ways.items() if _tested(runs[0])}))
    return found


def _verdict(means: Mapping[str, float], tested: set[str]) -> str:
    if not means:
        return NONE
    fastest = min(means, key=means.__getitem__)
    ours = min((s for way, s in means.items() if way in tested), default=math.inf)
    theirs = min((s for way, s in means.items() if way not in tested), default=math.inf)
    if math.isinf(ours) or theirs in (0.0, math.inf):
        return fastest
    return f"{fastest} ({ours / theirs - 1:+.0%})"


def _tested(run: Mapping[str, Any]) -> bool:
    return run["settings"]["plan"]["growth"].get("rule") in TESTED


def _as_metrics(run: dict[str, Any]) -> Run:
    """A kept run as its metrics file would have it."""
    found = Run(run["method"], str(run["seed"]))
    for point in run["result"]["curve"]:
        line = {"samples_seen": point["samples"], **point}
        if _tested(run):
            # What says that there were tests; the plan then counts the share of the statistics.
            line["batch/suggested"] = point["batch"]
            line["statistics_share"] = (
                point["statistics_seconds"] / point["seconds"] if point["seconds"] else 0.0
            )
        found.add(line)
    return found
