"""How near forecasts come: ``python benchmarks plan --help``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from adadagrad_kernels.cli.table import format_table
from adadagrad_kernels.report.hardware import Hardware, read_hardware
from adadagrad_kernels.report.plan import Forecast, common_loss, forecasts, loss_of
from adadagrad_kernels.report.runs import Run, collect, group
from adadagrad_kernels.training.quantities import count
from benchmarks.measuring import processor
from benchmarks.measuring.interleaved import Spread, spread
from benchmarks.planned.processes import Processes
from benchmarks.planned.ways import MODELS, SIZES, TESTED, WAYS

DESCRIPTION = """\
Sets the forecasts of `adadagrad-kernels plan` beside the seconds that runs then take, on one
process and on two (gloo, DistributedDataParallel), each with one thread.

A CNN trains on scikit-learn's digits in four ways, once, in one process. Then come rounds. In each
the hardware is probed for one process and for two, as `probe` does, and every run is made again to
the target with one and with two. A ratio is formed within a round: what slows the machine down for
a while slows both of its sides. Reported are the medians, and the quartiles in brackets. The
machine should do nothing else.
"""
#: By how much a forecast may miss.
WITHIN = 0.10


class Parties(NamedTuple):
    """One process, and two ranks of a group."""

    one: Processes
    ranks: Processes


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the runs, forecast them, time them, print the table."""
    options = _parser().parse_args(arguments)
    found = Parties(Processes(1), Processes(2, group=True))
    groups = _runs(found.one, options)
    loss = loss_of(groups)
    target = common_loss(groups, loss)
    rounds = [_round(found, groups, loss, target, options) for _ in range(options.rounds)]
    rows = [_row([round_[place] for round_ in rounds]) for place in range(len(rounds[0]))]
    report = {
        "machine": processor.name(),
        "loss": loss,
        "target": target,
        **_common(options),
        "rows": rows,
        "rounds": rounds,
    }
    path = options.out / "planned.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"to a {loss} of {target:.4g}, {options.rounds} rounds:\n")
    print(_table(rows))
    near = sum(row["near"] for row in rows)
    print(f"\n{near} of {len(rows)} forecasts within {WITHIN:.0%}; written: {path}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks plan",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--rounds", type=_rounds, default=9, metavar="N", help="default: %(default)s; 2 at least")
    add("--model", choices=tuple(MODELS), default="wide", help="default: %(default)s")
    add("--samples", type=count, default=60_000, metavar="N",
        help="of each run (default: %(default)s)")  # fmt: skip
    add("--sizes", type=_sizes, default=SIZES, metavar="B,B,...",
        help=f"batches of the probe, rising (default: {','.join(map(str, SIZES))})")  # fmt: skip
    add("--out", type=Path, default=Path("runs/planned"), metavar="DIR",
        help="metrics of the runs, the last hardware table, planned.json (default: %(default)s)"
    )  # fmt: skip
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(count(part) for part in text.split(","))


def _rounds(text: str) -> int:
    rounds = count(text)
    if rounds < 2:
        raise argparse.ArgumentTypeError("quartiles need 2 rounds or more")
    return rounds


def _common(options: argparse.Namespace) -> dict[str, Any]:
    return {"model": options.model, "samples": options.samples}


def _runs(one: Processes, options: argparse.Namespace) -> dict[str, list[Run]]:
    """Every way's run, written and read as those of ``train`` are."""
    paths = []
    for way in WAYS:
        path = options.out / way.replace(" ", "-") / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        (lines,) = one.do("run", **_common(options), way=way)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        paths.append(f"{way}={path}")
    return group(collect(paths))


def _round(
    parties: Parties,
    groups: dict[str, list[Run]],
    loss: str,
    target: float,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Forecasts by this round's probes, and the seconds of this round's runs."""
    hardware = _probed(parties, options)
    found = []
    for way in WAYS:
        for workers, processes, task in ((1, parties.one, "alone"), (2, parties.ranks, "together")):
            told: Forecast
            (told,) = forecasts({way: groups[way]}, hardware, [workers], loss, target)
            steps = round(told.steps)
            real = processes.do(task, **_common(options), way=way, steps=steps)
            found.append(
                {
                    "way": way,
                    "workers": workers,
                    "steps": steps,
                    "samples_forecast": told.samples,
                    "samples": real[0][1],
                    "forecast": told.seconds,
                    "real": max(seconds for seconds, _ in real),
                }
            )
    return found


def _probed(parties: Parties, options: argparse.Namespace) -> Hardware:
    """The table of one process and of two, as `torchrun ... probe` makes it."""
    settings = {**_common(options), "way": TESTED, "sizes": options.sizes}
    (alone,) = parties.one.do("probe_alone", **settings)
    together = parties.ranks.do("probe_together", **settings)
    path = options.out / "hardware.json"
    path.write_text(json.dumps(alone | together[0], indent=2) + "\n", encoding="utf-8")
    return read_hardware(path)


def _row(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """A way with a number of workers over all rounds."""
    ratio: Spread = spread([each["forecast"] / each["real"] for each in rounds])
    return {
        "way": rounds[0]["way"],
        "workers": rounds[0]["workers"],
        "steps": rounds[0]["steps"],
        "forecast": spread([each["forecast"] for each in rounds]).median,
        "real": spread([each["real"] for each in rounds]).median,
        "ratio": list(ratio),
        "near": abs(ratio.median - 1.0) <= WITHIN,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    header = ["", "processes", "steps", "forecast, s", "real, s", "forecast / real"]
    return format_table(
        header,
        [
            [
                row["way"],
                str(row["workers"]),
                f"{row['steps']:,}",
                f"{row['forecast']:.3g}",
                f"{row['real']:.3g}",
                "{:.2f} [{:.2f}, {:.2f}]".format(*row["ratio"]),
            ]
            for row in rows
        ],
    )
