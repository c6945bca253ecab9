"""The command line that all experiments share."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.training.quantities import count
from benchmarks.reproduce.results import SIZES, Experiment, Options, Run, stored
from benchmarks.reproduce.side_by_side import made

DESCRIPTION = """\
Runs experiments of the papers on adaptive batch sizes and keeps their figures.

Every run is kept as soon as it is done: what was stopped goes on where it stood, and a run whose
settings have not changed is not made again. `python benchmarks/reproduce` runs all of them and
then writes docs/reference/reproduction.md from the figures that are kept.
"""


def parser(prog: str) -> argparse.ArgumentParser:
    """The options."""
    result = argparse.ArgumentParser(
        prog=prog,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("--size", choices=SIZES, default="machine",
        help="smoke: seconds, on made-up data; machine: minutes on two cores; paper: the "
        "published size (default: %(default)s)")  # fmt: skip
    add("--seeds", type=count, metavar="K", help="seeds 0 to K-1 (default: by experiment and size)")
    add("--out", type=Path, metavar="DIR",
        help="folder of the figures (default: benchmarks/results/reproduce; for smoke, "
        "runs/reproduce-smoke)")  # fmt: skip
    add("--data-dir", type=Path, metavar="DIR",
        help="folder with mnist/, libsvm/, text/ and cifar10_subset.npz")  # fmt: skip
    add("--threads", type=count, metavar="N",
        help="threads of torch (default: by experiment, 1 where steps are short)")  # fmt: skip
    add("--quiet", action="store_true", help="no progress")
    add("--only", default="", metavar="TEXT",
        help="runs whose experiment/task/method contains this text")  # fmt: skip
    add("--jobs", type=count, default=1, metavar="N",
        help="runs side by side, each in a process of its own (default: %(default)s)")  # fmt: skip
    return result


def options_of(arguments: argparse.Namespace) -> Options:
    """The options as the experiments take them."""
    return Options(
        arguments.size,
        arguments.seeds,
        arguments.out,
        arguments.data_dir,
        arguments.threads,
        arguments.quiet,
        arguments.only,
        arguments.jobs,
    )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """How sizes fail is what the experiments are about: they need not be told."""
    logger = logging.getLogger("adadagrad_kernels")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@_without_warnings()
def run(experiment: Experiment, options: Options) -> bool:
    """Make the runs that are not there yet; whether all of them are there now.

    A run that lacks its data is left out, and said so.
    """
    figures = stored(experiment.name, options.size, options.folder)
    while missing := [run for run in _wanted(experiment, options) if not figures.has(run)]:
        started = time.monotonic()
        try:
            for place, (each, result) in enumerate(made(missing, options.jobs), start=1):
                figures.add(each, result)
                if not options.quiet:
                    seconds = time.monotonic() - started
                    print(
                        f"{experiment.name} {place}/{len(missing)}  {each.task}, {each.method}, "
                        f"seed {each.seed}  {seconds:.1f} s",
                        flush=True,
                    )
                started = time.monotonic()
        except KeyboardInterrupt:
            print(f"{experiment.name}: stopped; the same command goes on here", file=sys.stderr)
            raise SystemExit(130) from None
        except DataFormatError as error:
            print(f"{experiment.name}: left out, {error}", file=sys.stderr)
            return False
    # With fewer seeds or another size of the grid, old figures would stay in the means.
    if not options.only:
        figures.order(experiment.runs(options))
    return True


def _wanted(experiment: Experiment, options: Options) -> list[Run]:
    # Of runs side by side each would draw its bar over the others'.
    quiet = options.quiet or options.jobs > 1
    return [
        run
        for run in experiment.runs(replace(options, quiet=quiet))
        if options.only in f"{experiment.name}/{run.task}/{run.method}"
    ]
