"""`adadagrad-kernels plan`: what runs would take with other workers, and whether adapting pays."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from adadagrad_kernels.cli.table import format_table
from adadagrad_kernels.report.hardware import read_hardware
from adadagrad_kernels.report.plan import Forecast, common_loss, forecasts, loss_of
from adadagrad_kernels.report.runs import collect, group
from adadagrad_kernels.writers.metrics_file import strict

#: Differences of seconds below this share are none.
SAME = 0.05


def run(arguments: argparse.Namespace) -> int:
    """Reads the runs and the table, and prints a forecast for every number of workers.

    Raises:
        DataFormatError: Metrics or the table are damaged, or a run does not reach the target.
    """
    groups = group(collect(arguments.runs))
    hardware = read_hardware(arguments.hardware)
    name = loss_of(groups)
    target = arguments.target or common_loss(groups, name)
    found = forecasts(groups, hardware, arguments.workers, name, target)
    if arguments.json:
        rows = [{**asdict(each), "device_hours": each.device_hours} for each in found]
        print(json.dumps(strict({"loss": name, "target": target, "forecasts": rows}), indent=2))
        return 0
    header = ["", "workers", "seconds", "device hours", "steps", "samples", "measured"]
    table = format_table(
        header,
        [
            [
                each.name,
                f"{each.workers:,}",
                f"{each.seconds:,.3g}",
                f"{each.device_hours:,.3g}",
                f"{each.steps:,.0f}",
                f"{each.samples:,.0f}",
                "simulated" if each.measured is None else f"{each.measured:,.3g} s",
            ]
            for each in found
        ],
    )
    notes = [_verdict([each for each in found if each.workers == w]) for w in arguments.workers]
    fastest = [
        f"{name}: fewest seconds with {min(own, key=lambda f: f.seconds).workers:,} workers"
        for name in groups
        if (own := [each for each in found if each.name == name])
    ]
    head = f"to a {name} of {target:.4g}:"
    print("\n\n".join([head, table, "\n".join(notes), "\n".join(fastest)]))
    return 0


def _verdict(found: Sequence[Forecast]) -> str:
    """Whether adapting pays with so many workers."""
    workers = f"{found[0].workers:,} worker{'s' if found[0].workers > 1 else ''}"
    adaptive = [each for each in found if each.adaptive]
    others = [each for each in found if not each.adaptive]
    best = min(found, key=lambda each: each.seconds)
    if not adaptive or not others:
        return f"{workers}: {best.name} takes the fewest seconds"
    ours = min(each.seconds for each in adaptive)
    theirs = min(each.seconds for each in others)
    change = f"{ours / theirs - 1:+.0%}"
    if abs(ours - theirs) <= SAME * theirs:
        return (
            f"{workers}: adapting neither pays nor costs, {ours / theirs - 1:+.0%} of the seconds"
        )
    said = "pays" if ours < theirs else "does not pay"
    return (
        f"{workers}: adapting {said}, {change} of the seconds of the best without "
        f"a test; {best.name} takes the fewest"
    )
