"""`adadagrad-kernels critical-batch`: the critical batch, from branches of a checkpoint."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from adadagrad_kernels.cli.lock import FolderLock
from adadagrad_kernels.cli.progress import Progress, warn
from adadagrad_kernels.cli.saved_run import SavedRun
from adadagrad_kernels.cli.table import format_pairs, format_table
from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.files import replace_file
from adadagrad_kernels.optional import require
from adadagrad_kernels.report.critical_batch import picture
from adadagrad_kernels.training.branches import Branches
from adadagrad_kernels.training.critical_batch import (
    Fit,
    Point,
    crossing,
    fit,
    follow,
    limited,
    measure,
)
from adadagrad_kernels.training.errors import UsageError
from adadagrad_kernels.writers.metrics_file import strict

#: Steps of the run's own size in a branch, where --samples does not say.
STEPS = 64
#: Powers of two around the run's own size, where --sizes does not say.
POWERS = range(-2, 5)


def run(arguments: argparse.Namespace) -> int:
    """Branches the run, fits, writes the result and the picture, and prints the answer.

    Raises:
        CheckpointError: There is no checkpoint of a run of train, or the data are others.
    """
    require("matplotlib.figure", "the picture")  # said before any training
    saved = SavedRun(arguments.run, arguments.data_dir)
    data, checkpoint = saved.data, saved.checkpoint
    size = saved.state["controller"]["batch_size"]
    sizes = arguments.sizes or [
        other for k in POWERS if 1 <= (other := round(size * 2.0**k)) <= len(data.train)
    ]
    samples = arguments.samples or STEPS * size
    branches = Branches(saved.config, saved.state, data, samples, arguments.most)
    settings = {
        "checkpoint": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "samples": samples,
        "most": arguments.most,
    }
    torch.set_num_threads(torch.get_num_threads())
    out: Path = arguments.out or arguments.run / "critical-batch"
    with FolderLock(out):
        done = _Done(out / "branches.jsonl", settings, overwrite=arguments.overwrite)
        target, points = measure(
            _Runner(branches, done, _total(arguments, sizes, size), quiet=arguments.quiet),
            size=size,
            sizes=sizes,
            rules=arguments.rules,
            seeds=arguments.seeds,
        )
        summary = _summary(arguments, branches, target, points)
        text = json.dumps(strict(summary), indent=2, allow_nan=False) + "\n"
        replace_file(out / "critical_batch.json", [text.encode()])
        replace_file(out / "critical_batch.png", [picture(summary)])
    print(text if arguments.json else _report(summary, out))
    return 0


class _Done:
    """The branches that are done, a line each, so that a call that was stopped goes on."""

    def __init__(self, path: Path, settings: dict[str, Any], *, overwrite: bool) -> None:
        self._path = path
        self._found: dict[tuple[int, str, int, float | None], Point] = {}
        if overwrite or not path.exists():
            replace_file(path, [(json.dumps(settings) + "\n").encode()])
            return
        # A last line that was still being written is that of a branch that is run again.
        head, *lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        try:
            differs = [name for name, value in json.loads(head).items() if settings[name] != value]
            for line in map(json.loads, lines):
                target = line.pop("target")
                line["curve"] = [(int(steps), float(loss)) for steps, loss in line["curve"]]
                point = Point(**line)
                self._found[point.size, point.rule, point.seed, target] = point
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataFormatError(
                f"{path}: damaged ({error}): begin anew with --overwrite"
            ) from error
        if differs:
            raise UsageError(
                f"{path} holds branches with another {', '.join(differs)}: give the same, or "
                "another --out, or begin anew with --overwrite"
            )
        replace_file(path, ["".join(f"{line}\n" for line in (head, *lines)).encode()])

    def get(self, size: int, rule: str, seed: int, target: float | None) -> Point | None:
        """What a branch came to, if it is done."""
        return self._found.get((size, rule, seed, target))

    def add(self, point: Point, target: float | None) -> None:
        """Writes what one came to."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(point), "target": target}) + "\n")


class _Runner:
    """Runs branches that are not done yet, with one bar over all of them, in samples."""

    def __init__(self, branches: Branches, done: _Done, total: int, *, quiet: bool) -> None:
        self._branches, self._done, self._quiet = branches, done, quiet
        self._count, self._total = 0, total

    def __call__(self, size: int, rule: str, seed: int, target: float | None) -> Point:
        self._count += 1
        if (point := self._done.get(size, rule, seed, target)) is not None:
            return point
        whole = target is None
        progress = Progress(
            f"branch {self._count} of {self._total}, batch {size:,}, {rule}",
            self._branches.budget(size, whole=whole),
            quiet=self._quiet,
        )
        losses = self._branches.losses(size, rule, seed, whole=whole, progress=progress)
        curve, diverged = follow(losses, target)
        progress.close()
        steps = None if target is None or diverged else crossing(curve, target)
        point = Point(size, rule, seed, steps, diverged, curve)
        self._done.add(point, target)
        return point


def _total(arguments: argparse.Namespace, sizes: Sequence[int], own: int) -> int:
    others = sum(size != own for size in sizes)
    scaled = sum("*" in rule for rule in arguments.rules)
    return int(arguments.seeds * (1 + scaled + others * len(arguments.rules)))


def _summary(
    arguments: argparse.Namespace, branches: Branches, target: float, points: list[Point]
) -> dict[str, Any]:
    fits: list[Fit] = []
    asked = [*arguments.rules, "best"] if len(arguments.rules) > 1 else arguments.rules
    for rule in asked:
        try:
            fits.append(fit(points, rule, arguments.level))
        except ValueError as error:
            if rule == asked[-1]:
                raise
            warn(str(error))
    noise = branches.noise()
    low, high = noise.scale_interval(arguments.level)
    scale = noise.noise / noise.signal if noise.signal > 0 else math.inf
    return {
        "run": str(arguments.run),
        "batch_size": branches.size,
        "target_loss": target,
        "level": arguments.level,
        "fits": [asdict(each) for each in fits],
        "limited_by_rates": limited(points, branches.size),
        "noise_scale": {"value": scale, "interval": [low, high], "samples": noise.samples},
        "branches": [asdict(point) for point in points],
    }


def _report(summary: dict[str, Any], out: Path) -> str:
    level = f"{summary['level']:.0%}"
    header = ["learning rate", "critical batch", level, "least steps"]
    rows = [
        [
            fit["rule"],
            _number(fit["critical"]),
            " to ".join(map(_number, fit["interval"])),
            f"{fit['least_steps']:,.3g}",
        ]
        for fit in summary["fits"]
    ]
    noise = summary["noise_scale"]
    points = summary["branches"]
    lost = sum(point["steps"] is None for point in points)
    told = [
        ("batch of the run", f"{summary['batch_size']:,}"),
        ("target loss", f"{summary['target_loss']:.4f}"),
        (
            "noise scale",
            f"{_number(noise['value'])} ({' to '.join(map(_number, noise['interval']))}), of "
            f"{noise['samples']:,} samples at the checkpoint",
        ),
        (
            "branches",
            f"{len(points)}, of which {lost} did not reach the target and "
            f"{sum(point['diverged'] for point in points)} of these diverged",
        ),
    ]
    notes = [f"{fit['rule']}: {fit['wide']}" for fit in summary["fits"] if fit["wide"]]
    notes += [f"best: {told}" for told in [summary["limited_by_rates"]] if told]
    said = "At the critical batch a doubled batch saves a quarter of the steps, far below it half."
    parts = [format_table(header, rows), format_pairs(told), said, *notes]
    return "\n\n".join([*parts, f"{out / 'critical_batch.png'}\n{out / 'critical_batch.json'}"])


def _number(value: float) -> str:
    return "no end" if math.isinf(value) else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
