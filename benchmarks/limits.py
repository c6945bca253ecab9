"""Measures the kernels against their goals in one run: ``python benchmarks limits --help``."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from adadagrad_kernels import __version__, _native
from adadagrad_kernels.backends import cpu
from benchmarks.measuring import processor
from benchmarks.measuring.experiment import Settings, measured_rows
from benchmarks.ops import goals as op_goals
from benchmarks.train_steps import goals as step_goals
from benchmarks.train_steps import layer_goals, over_ranks

RESULTS = Path(__file__).parent / "results"
MIB = 1 << 20

DESCRIPTION = """\
Measures the kernels against their goals, and prints a table of ratios.

Every row is a ratio of two times from the same rounds: in each round all contenders run once, one
after the other, and the ratio is formed within the round. Reported are the median of the rounds'
ratios and, in brackets, their quartiles: where these are far apart, something else kept the machine
busy, and the row says little. "One read of G" is a threaded read of the same memory, the least
that any kernel could take. Memory rows are ratios of bytes.

Nothing here passes or fails: a goal that is missed is a row that says so.
"""
EXAMPLES = """\
examples:
  python benchmarks limits                    all rows, G of 256 MiB, some 40 minutes
  python benchmarks limits --quick            fewer rows, small models, some 3 minutes
  python benchmarks limits --only "512 rows"  only experiments whose title contains this
  python benchmarks limits --only train       training steps with statistics, and their layers
  python benchmarks limits --only ranks       steps of two processes, pooled over both
  python benchmarks limits --only "Llama 6"   one model's steps, in both precisions
  python benchmarks limits --size 1024 --save keeps it in benchmarks/results/<machine>.json
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the experiments; 2 where the kernels are missing, 0 otherwise."""
    options = _parser().parse_args(arguments)
    reason = cpu.unavailable()
    if reason is not None:
        print(f"limits: there are no kernels to measure: {reason}", file=sys.stderr)
        return 2
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        report = _measure(options)
    finally:
        torch.set_num_threads(threads)
    if not report["rows"] and not report["left_out"]:
        print(f"limits: no experiment's title contains {options.only!r}", file=sys.stderr)
        return 2
    targets = [options.json] if options.json else []
    if options.save:
        targets.append(RESULTS / f"{platform.node()}.json")
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"written: {target}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="limits",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", metavar="FILE", type=Path, help="write settings, machine and every row there")
    add("--save", action="store_true", help="write benchmarks/results/<machine>.json")
    add("--size", metavar="MIB", type=int, help="size of G (default 256; 64 with --quick)")
    add("--rounds", metavar="N", type=int, help="rounds of each experiment (default 9; 7 quick)")
    add("--threads", metavar="N", type=int, default=min(2, os.cpu_count() or 1),
        help="threads of torch and of the kernels (default %(default)s)")  # fmt: skip
    add("--only", metavar="TEXT", default="", help="run experiments whose title contains TEXT")
    add("--quick", action="store_true", help="less of everything, for a first look")
    return parser


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    size = (options.size or (64 if options.quick else 256)) * MIB
    rounds = max(2, options.rounds or (7 if options.quick else 9))
    machine = _machine(options.threads)
    print(
        f"{machine['machine']}: {machine['cpu']}; {machine['isa']} kernels, "
        f"{options.threads} threads, torch {machine['torch']}; "
        f"G of {size // MIB} MiB float32, {rounds} rounds\n"
    )
    settings = Settings(size, options.threads, options.quick)
    everything = chain(
        op_goals.experiments(settings),
        layer_goals.experiments(settings),
        step_goals.experiments(settings),
        over_ranks.experiments(settings),
    )
    chosen = [experiment for experiment in everything if options.only in experiment.title]
    rows, left_out, start = [], {}, time.monotonic()
    for index, experiment in enumerate(chosen):
        _progress(index, len(chosen), experiment.title, start)
        reason = experiment.missing()
        if reason is not None:
            left_out[experiment.title] = reason
            print(f"{experiment.title}\n  left out: {reason}")
            continue
        found = [{**row, "cpu": machine["cpu"]} for row in measured_rows(experiment, rounds)]
        _progress(None, len(chosen), "", start)
        _print_rows(experiment.title, found)
        rows += found
    if rows:
        met = sum(row["met"] for row in rows)
        print(f"\n{met} of {len(rows)} goals met, {time.monotonic() - start:.0f} s")
    return {"settings": {"bytes": size, "rounds": rounds, "quick": options.quick}, **machine,
            "left_out": left_out, "rows": rows}  # fmt: skip


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    print(title)
    for row in rows:
        sign = ">=" if row["at_least"] else "<="
        lower, upper = row["quartiles"]
        parts = (row["numerator"], row["denominator"])
        both = " / ".join(_absolute(part, row["unit"]) for part in parts)
        print(
            f"  {row['what']:<44}{row['measured']:>6.2f}  [{lower:.2f}, {upper:.2f}]".ljust(70)
            + f"goal {sign} {row['goal']:<5.2f}  {'met' if row['met'] else 'NOT MET':<8} {both}"
            + (f"  {row['chosen']}" if row["chosen"] else "")
        )


def _absolute(value: float, unit: str) -> str:
    return f"{value / MIB:.1f} MiB" if unit == "B" else f"{value * 1e3:.3g} ms"


def _progress(index: int | None, total: int, title: str, start: float) -> None:
    """One line that is written over; nothing where the output is not a terminal."""
    if not sys.stderr.isatty():
        return
    line = ""
    if index is not None:
        done = "#" * (20 * index // total)
        line = f"[{done:<20}] {index}/{total}  {time.monotonic() - start:.0f} s  {title}"
    print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


def _machine(threads: int) -> dict[str, Any]:
    return {
        "machine": platform.node(),
        "cpu": processor.name(),
        "cores": os.cpu_count(),
        "load_at_start": os.getloadavg()[0],
        "isa": _native.instruction_sets()["active"],
        "threads": threads,
        "torch": torch.__version__,
        "package": __version__,
        "date": datetime.date.today().isoformat(),
    }


if __name__ == "__main__":
    sys.exit(main())
