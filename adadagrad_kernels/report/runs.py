"""Reads metrics files back, strictly, so that what is drawn is what was measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from adadagrad_kernels.errors import DataFormatError

# A folder of this name, or whose name ends like this, holds one seed of what stands before it.
_SEED = re.compile(r"(?:^|[-_.])seed[-_]?(\d+)$")
# The metrics that the report reads as numbers, beside those of the tests, `test/...`.
_NUMBERS = frozenset(
    (
        *("steps", "seconds", "statistics_share", "statistics_seconds"),
        *("loss", "train_loss", "test_loss"),
        *("test_accuracy", "batch/used", "batch/average", "batch/suggested"),
        *("grad/norm_sq", "grad/var", "batch/suggested_low", "batch/suggested_high"),
        *("spread/noise", "spread/signal", "spread/both", "spread/level"),
    )
)


@dataclass
class Run:
    """One seed of one way to train.

    Attributes:
        name: The way to train; runs of one name are drawn as one curve.
        seed: Which repetition, where that is known.
        source: The file.
        lines: Metrics in their order, each with ``samples_seen``.
        finished: Whether the file says that the run came to its end.
    """

    name: str
    seed: str | None = None
    source: Path = Path()
    lines: list[dict[str, Any]] = field(default_factory=list)
    finished: bool = False

    def add(self, line: dict[str, Any]) -> None:
        """Takes the next line."""
        self.lines.append(line)
        self.finished = self.finished or bool(line.get("end"))


def read_runs(path: Path, name: str | None = None) -> list[Run]:
    """Reads the runs of one metrics file: one, or those that its lines name by ``run``, ``seed``.

    A last line that is not complete is left out: the run was stopped, or still runs.

    Args:
        path: The file, or a folder with ``metrics.jsonl``.
        name: Of the run; by default that of the folder, and a file of several runs names them.

    Raises:
        DataFormatError: The file is missing or damaged, with the line.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise DataFormatError(
            f"{file}: no such file; give a folder in which train or demo wrote, "
            "or its metrics.jsonl"
        )
    folder_name, folder_seed = _name_of(file)
    runs: dict[tuple[str, str | None], Run] = {}
    for number, line in _lines(file):
        label = str(line["run"]) if "run" in line else None
        named = name or folder_name if label is None else f"{name}: {label}" if name else label
        seed = str(line["seed"]) if "seed" in line else folder_seed
        run = runs.setdefault((named, seed), Run(named, seed, file))
        before = run.lines[-1]["samples_seen"] if run.lines else 0
        if line["samples_seen"] < before:
            raise DataFormatError(
                f"{file}:{number}: samples_seen falls from {before:,} to {line['samples_seen']:,}; "
                "these are lines of two runs, or out of order: give a file with one run in order"
            )
        run.add(line)
    if not runs:
        raise DataFormatError(f"{file}: holds no line yet; leave it out until the run has begun")
    return list(runs.values())


def collect(arguments: Sequence[str]) -> list[Run]:
    """Reads all runs that a command line names: ``PATH`` or ``NAME=PATH``.

    Raises:
        DataFormatError: A file is missing or damaged, or the same run is there twice.
    """
    runs: list[Run] = []
    named = [_split(argument) for argument in arguments]
    for name, path in named:
        runs += read_runs(path, name)
    seen: dict[tuple[Path, str, str | None], Run] = {}
    for run in runs:
        key = (run.source.resolve(), run.name, run.seed)
        if key in seen:
            raise DataFormatError(f"{run.source}: given twice; give every run once")
        seen[key] = run
    return _told_apart(runs, [name for name, _ in named if name is not None])


def _split(argument: str) -> tuple[str | None, Path]:
    """Returns name and path; what is there decides, for both may have equals signs themselves."""
    if Path(argument).exists() or "=" not in argument:
        return None, Path(argument)
    parts = argument.split("=")
    splits = [("=".join(parts[:n]), "=".join(parts[n:])) for n in range(1, len(parts))]
    there = [(name, path) for name, path in splits if path and Path(path).exists()]
    if not there and len(splits) > 1:
        tried = " nor ".join(path or "nothing" for _, path in splits)
        raise DataFormatError(
            f"{argument}: no such file, and as NAME=RUN neither {tried} is there; give a folder in "
            "which train or demo wrote, or its metrics.jsonl"
        )
    name, path = (there or splits)[0]
    return name or None, Path(path)


def group(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Returns the seeds of each name, in the order of the names' first appearance."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.name, []).append(run)
    return groups


def _name_of(file: Path) -> tuple[str, str | None]:
    """Returns the name and seed that the path tells: `cnn-seed1/` and `cnn/seed1/` are of `cnn`."""
    parts = file.resolve().parent.parts[1:]
    name = parts[-1] if parts else str(file)
    if file.name != "metrics.jsonl":
        name = file.stem
    match = _SEED.search(name)
    if match is None:
        return name, None
    name = name[: match.start()] or (parts[-2] if len(parts) > 1 else name)
    return name, match[1]


def _told_apart(runs: list[Run], given: Sequence[str]) -> list[Run]:
    """Names runs after their folders if different files claim the same name and seed.

    Names that the caller gave may be shared: files of one name are its seeds.
    """
    claims: dict[tuple[str, str | None], list[Run]] = {}
    for run in runs:
        claims.setdefault((run.name, run.seed), []).append(run)
    for (name, _), rivals in claims.items():
        if len(rivals) > 1 and name not in given:
            for run in rivals:
                folder = run.source.resolve().parent
                run.name = (
                    f"{folder.name}: {name}" if folder.name != name else str(run.source.parent)
                )
    return runs


def _lines(file: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    *whole, rest = file.read_bytes().split(b"\n")
    if rest:
        # No line feed: the line was being written, and may yet be a whole object by chance.
        whole = whole if _parse(rest) is None else [*whole, rest]
    for number, content in enumerate(whole, start=1):
        line = _parse(content)
        if line is None:
            if number == len(whole) and not rest:
                return  # what was written last when the machine stopped
            raise DataFormatError(
                f"{file}:{number}: no JSON object: {content[:60]!r}; the file is damaged: restore "
                "it, or leave this run out"
            )
        _check(file, number, line)
        yield number, line


def _parse(content: bytes) -> dict[str, Any] | None:
    try:
        # NaN and Infinity are no JSON, but programs write them; they say what null says here.
        line = json.loads(content, parse_constant=lambda name: None)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _check(file: Path, number: int, line: dict[str, Any]) -> None:
    samples = line.get("samples_seen")
    if not _is_number(samples) or not (math.isfinite(samples) and samples >= 0):
        found = f"samples_seen is {samples!r}" if "samples_seen" in line else "no samples_seen"
        raise DataFormatError(
            f"{file}:{number}: {found}; every line must have the samples seen so far, 0 or more: "
            "restore the file, or leave this run out"
        )
    for name, value in line.items():
        needed = name in _NUMBERS or name.startswith("test/")
        if needed and not (value is None or _is_number(value)):
            raise DataFormatError(
                f"{file}:{number}: {name} is {value!r}, expected a number or null"
            )


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
