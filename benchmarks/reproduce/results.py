"""What an experiment is, and the files that keep its figures: one JSON file for each and size."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import adadagrad_kernels
from adadagrad_kernels import backends
from adadagrad_kernels.files import replace_file
from adadagrad_kernels.writers.metrics_file import strict

SIZES = ("smoke", "machine", "paper")
FOLDER = Path(__file__).resolve().parent.parent / "results" / "reproduce"


@dataclass(frozen=True)
class Options:
    """What the command line says, the same for every experiment.

    Attributes:
        seeds: how many, where not the experiment's own number.
        threads: of torch, where not the run's own number.
        only: runs whose ``experiment/task/method`` contains this text.
        jobs: runs that are made side by side, each in a process of its own.
    """

    size: str = "machine"
    seeds: int | None = None
    out: Path | None = None
    data_dir: Path | None = None
    threads: int | None = None
    quiet: bool = False
    only: str = ""
    jobs: int = 1

    @property
    def folder(self) -> Path:
        """Where the files go: smoke figures say nothing, so they stay away from the others."""
        return self.out or (Path("runs/reproduce-smoke") if self.size == "smoke" else FOLDER)


@dataclass(frozen=True)
class Run:
    """One method on one task with one seed.

    Attributes:
        settings: all that the figures depend on, as plain JSON types: a run is made again where
            they differ from those that its figures were made with.
        measure: makes the figures, plain JSON types too.
    """

    task: str
    method: str
    seed: int
    settings: dict[str, Any]
    measure: Callable[[], dict[str, Any]] = field(repr=False, compare=False)

    @property
    def key(self) -> tuple[str, str, int]:
        return self.task, self.method, self.seed


@dataclass(frozen=True)
class Experiment:
    """An experiment of a paper.

    Attributes:
        name: of its script and its files.
        title: of its section in the page.
        minutes: how long it should take at the size for a machine of two cores.
        runs: the runs for a command line. The data are read when the first is made. Once they are
            made they are listed again: more may follow from their figures.
        section: the section's lines, from the stored file alone.
        findings: by size, what was concluded from the figures that the repository keeps.
        draw: the picture of the stored file, for the page; None without one.
    """

    name: str
    title: str
    minutes: float
    runs: Callable[[Options], list[Run]]
    section: Callable[[Stored], list[str]]
    findings: dict[str, str] = field(default_factory=dict)
    draw: Callable[[Stored], Path] | None = None


class Stored:
    """The figures of one experiment at one size.

    Attributes:
        size: ``smoke``, ``machine`` or ``paper``.
        machines: the machines that they were made on, and with which versions.
        runs: dictionaries with ``task``, ``method``, ``seed``, ``settings``, ``machine`` (a place
            in ``machines``) and ``result``.
    """

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        self.size = size
        self.machines: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            self.machines, self.runs = content["machines"], content["runs"]

    def has(self, run: Run) -> bool:
        """Whether the figures of this run, with these very settings, are there."""
        settings = json.loads(json.dumps(strict(run.settings)))
        return any(_key(old) == run.key and old["settings"] == settings for old in self.runs)

    def add(self, run: Run, result: dict[str, Any]) -> None:
        """Keep the figures of a run in place of those it had, and write the file."""
        here = machine()
        if here not in self.machines:
            self.machines.append(here)
        entry = {
            "task": run.task,
            "method": run.method,
            "seed": run.seed,
            "machine": self.machines.index(here),
            "settings": run.settings,
            "result": result,
        }
        self.runs = [old for old in self.runs if _key(old) != run.key] + [strict(entry)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, [self._text().encode()])

    def order(self, runs: list[Run]) -> None:
        """Bring the figures into the order of the runs, and forget those of runs no more made."""
        places = {run.key: place for place, run in enumerate(runs)}
        kept = sorted((r for r in self.runs if _key(r) in places), key=lambda r: places[_key(r)])
        if kept != self.runs:
            self.runs = kept
            replace_file(self.path, [self._text().encode()])

    def _text(self) -> str:
        """One line for each run, so that a change of one shows as one."""
        machines = ",\n".join(json.dumps(line) for line in self.machines)
        runs = ",\n".join(json.dumps(line) for line in self.runs)
        return f'{{"size": "{self.size}",\n"machines": [\n{machines}\n],\n"runs": [\n{runs}\n]}}\n'


def _key(entry: dict[str, Any]) -> tuple[str, str, int]:
    return entry["task"], entry["method"], entry["seed"]


def stored(experiment: str, size: str, folder: Path) -> Stored:
    """The file of an experiment at a size; without runs where there is none yet."""
    return Stored(folder / f"{experiment}_{size}.json", size)


def groups(runs: list[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Task, method and the runs of all seeds, in the order of the runs."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for run in runs:
        found.setdefault((run["task"], run["method"]), []).append(run)
    for (task, method), members in found.items():
        yield task, method, members


def machine() -> dict[str, Any]:
    """What times depend on."""
    described: Any = backends.describe()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "isa": described["isa"]["active"],
        "torch": str(torch.__version__),
        "adadagrad-kernels": adadagrad_kernels.__version__,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
