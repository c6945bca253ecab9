"""The folder of a training run: metrics, checkpoint, final parameters, summary."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import adadagrad_kernels
from adadagrad_kernels import backends
from adadagrad_kernels.cli.checkpoint import check_same_run, load_checkpoint, save_checkpoint
from adadagrad_kernels.cli.progress import warn
from adadagrad_kernels.errors import CheckpointError
from adadagrad_kernels.files import replace_file
from adadagrad_kernels.training.errors import UsageError
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.quantities import Interval
from adadagrad_kernels.writers.metrics_file import MetricsFile, strict

_BUDGET = "--samples"

# What a run's checkpoint holds.
_CONTENT: dict[str, type] = {
    "fingerprint": dict,
    "environment": dict,
    "trainer": dict,
    "metrics_bytes": int,
}


class RunFolder:
    """Begins or resumes a run in a folder and keeps its checkpoint.

    Args:
        path: The folder; it is made.
        every: When to write checkpoints.

    Attributes:
        saved_samples: Samples at the newest checkpoint, or None while there is none.
    """

    def __init__(self, path: Path, every: Interval) -> None:
        self.path = path
        self.checkpoint = path / "checkpoint.adak"
        self.metrics = path / "metrics.jsonl"
        self.saved_samples: int | None = None
        self._fingerprint: dict[str, object] = {}
        self._every = every
        self._due_samples = 0
        self._due_time = 0.0
        path.mkdir(parents=True, exist_ok=True)

    def saved_options(self) -> dict[str, object]:
        """Returns the options of the run that the checkpoint is of; none without a checkpoint.

        Raises:
            CheckpointError: The checkpoint is damaged or of another version.
        """
        if not self.checkpoint.exists():
            return {}
        return dict(load_checkpoint(self.checkpoint, _CONTENT)["fingerprint"])

    def begin(self, fingerprint: Mapping[str, object], *, overwrite: bool) -> MetricsFile:
        """Starts a new run; refuses a folder that holds an old one, unless it may be overwritten.

        Args:
            fingerprint: What must be equal for a later checkpoint to be of this run.
            overwrite: Whether it may be.

        Raises:
            UsageError: The folder holds a run.
        """
        names = ("checkpoint.adak", "metrics.jsonl", "summary.json", "model.pt")
        present = [name for name in names if (self.path / name).exists()]
        if present and not overwrite:
            raise UsageError(
                f"--out {self.path} holds a run ({', '.join(present)}): continue it with "
                "--resume, begin anew with --overwrite, or choose another folder"
            )
        # The checkpoint first: whatever happens next, a later --resume does not find an old one.
        for name in present:
            (self.path / name).unlink()
        self._fingerprint = dict(fingerprint)
        self._schedule(0)
        return MetricsFile(self.metrics)

    def resume(self, trainer: Trainer, fingerprint: Mapping[str, object]) -> MetricsFile:
        """Puts a trainer where the checkpoint left it; without a checkpoint, begins.

        The budget may be another than it was: the results of the former end are removed then.

        Raises:
            CheckpointError: The checkpoint is damaged or of another run or version.
            UsageError: The budget is below what the run has seen.
        """
        if not self.checkpoint.exists():
            warn(f"no checkpoint in {self.path}: beginning the run")
            return self.begin(fingerprint, overwrite=True)
        state = load_checkpoint(self.checkpoint, _CONTENT)
        began_with = state["fingerprint"]
        check_same_run(self.checkpoint, began_with, fingerprint, but_for=(_BUDGET,))
        for name, here in _environment().items():
            if (saved := state["environment"].get(name)) != here:
                warn(f"{name} was {saved} and is now {here}: the last bits may come out different")
        seen = self._load(trainer, state["trainer"])
        self._fingerprint = dict(fingerprint)
        self._schedule(seen)
        self.saved_samples = seen
        metrics = MetricsFile(self.metrics, state["metrics_bytes"])
        if began_with.get(_BUDGET) != fingerprint[_BUDGET]:
            for name in ("summary.json", "model.pt"):
                (self.path / name).unlink(missing_ok=True)
        return metrics

    def _load(self, trainer: Trainer, state: Mapping[str, Any]) -> int:
        """Loads the trainer's state; returns the samples it has seen."""
        try:
            seen = int(state["controller"]["samples_seen"])
            if trainer.config.samples >= seen:
                trainer.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self.checkpoint}: its state does not fit this run ({type(error).__name__}: "
                f"{error}); resume with the version of adadagrad-kernels that wrote it, or begin "
                "anew with --overwrite"
            ) from error
        if trainer.config.samples < seen:
            raise UsageError(
                f"{_BUDGET} {trainer.config.samples:,} is below the {seen:,} samples that the run "
                f"in {self.path} has seen: give as many or more, or another --out"
            )
        return seen

    def save_if_due(self, trainer: Trainer, metrics: MetricsFile) -> None:
        """Writes a checkpoint when it is due; if that fails, warns and keeps the last one."""
        samples = trainer.controller.samples_seen
        if samples < self._due_samples or time.monotonic() < self._due_time:
            return
        try:
            self.save(trainer, metrics)
        except OSError as error:
            self._schedule(samples)
            kept = "there is none yet"
            if self.saved_samples is not None:
                kept = f"the last good one, of sample {self.saved_samples:,}, stays"
            warn(f"no checkpoint written at sample {samples:,} ({error}); {kept}")

    def save(self, trainer: Trainer, metrics: MetricsFile) -> None:
        """Writes a checkpoint.

        Raises:
            OSError: It cannot be written; the last good one stays.
        """
        state = {
            "fingerprint": self._fingerprint,
            "environment": _environment(),
            "trainer": trainer.state_dict(),
            "metrics_bytes": metrics.sync(),
        }
        save_checkpoint(self.checkpoint, state)
        self.saved_samples = trainer.controller.samples_seen
        self._schedule(self.saved_samples)

    def finish(self, trainer: Trainer, summary: Mapping[str, Any]) -> None:
        """Writes the final parameters and the summary."""
        buffer = io.BytesIO()
        torch.save(trainer.model.state_dict(), buffer)
        replace_file(self.path / "model.pt", [buffer.getbuffer()])
        text = json.dumps(strict(summary), indent=2, allow_nan=False) + "\n"
        replace_file(self.path / "summary.json", [text.encode()])

    def forget_if_empty(self) -> None:
        """Removes metrics without a whole line: a run that wrote nothing must block no other."""
        if self.metrics.exists() and b"\n" not in self.metrics.read_bytes():
            self.metrics.unlink()

    def _schedule(self, samples: int) -> None:
        self._due_samples = samples + (self._every.samples or 0)
        self._due_time = time.monotonic() + (self._every.seconds or 0.0)


def _environment() -> dict[str, object]:
    description = backends.describe()
    isa = description["isa"]
    return {
        "adadagrad-kernels": adadagrad_kernels.__version__,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "backend": backends.select("cpu").__name__.rpartition(".")[2],
        "instruction set": isa["active"] if isinstance(isa, dict) else None,
    }
