"""Writes the lines of a training run to `metrics.jsonl` and the writers of `--writer`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adadagrad_kernels.optional import require
from adadagrad_kernels.writers import (
    CsvWriter,
    MetricsWriter,
    TensorBoardWriter,
    WandbWriter,
    Writers,
)
from adadagrad_kernels.writers.metrics_file import MetricsFile

# What writers need that may not be installed.
_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def require_writers(names: Sequence[str]) -> None:
    """Makes sure that the writers can be made, before a run changes anything.

    Raises:
        MissingDependencyError: The package of one is not installed.
    """
    for name in names:
        if name in _MODULES:
            require(_MODULES[name], f"--writer {name}", name)


def remove_tables(folder: Path) -> None:
    """Removes what other writers left of an earlier run; W&B's folders are W&B's."""
    for path in (folder / "metrics.csv", *(folder / "tensorboard").glob("events.out.tfevents.*")):
        path.unlink(missing_ok=True)


class MetricsLog:
    """Writes the lines of a run; a context manager that closes the writers.

    The writers begin with the lines that `metrics.jsonl` already holds. So after a resume they
    hold exactly what that file holds, whatever was written after the checkpoint and whichever
    writers the run had before. W&B deletes nothing, so it gets a new run in the same group.

    Args:
        metrics: The file, open; the caller closes it.
        path: Where it is.
        names: Of the writers.
        config: The run's options.
    """

    def __init__(
        self, metrics: MetricsFile, path: Path, names: Sequence[str], config: Mapping[str, Any]
    ) -> None:
        self._metrics = metrics
        folder = path.parent
        remove_tables(folder)
        make: dict[str, Callable[[], MetricsWriter]] = {
            "csv": lambda: CsvWriter(folder / "metrics.csv"),
            "tensorboard": lambda: TensorBoardWriter(folder / "tensorboard"),
            "wandb": lambda: WandbWriter(
                folder, name=folder.name, group=folder.name, config=config
            ),
        }
        self._writers = Writers(make[name]() for name in make if name in names)
        if set(names) & set(make):
            with path.open(encoding="utf-8") as lines:
                for line in lines:
                    self._pass_on(json.loads(line))

    def write(self, line: Mapping[str, Any]) -> None:
        """Writes one line, first to the file that checkpoints rely on."""
        self._metrics.write(line)
        self._pass_on(line)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: Any) -> None:
        self._writers.__exit__(*error)

    def _pass_on(self, line: Mapping[str, Any]) -> None:
        self._writers.write(line, samples=line["samples_seen"], step=line["steps"])
