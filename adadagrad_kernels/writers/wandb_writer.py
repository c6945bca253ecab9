"""A run of Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from adadagrad_kernels.optional import require
from adadagrad_kernels.writers.protocol import ClosingWriter, Value, with_place


class WandbWriter(ClosingWriter):
    """Logs to Weights & Biases.

    Every metric is logged under its own name. ``samples_seen`` and ``steps`` are logged with it
    and declared by ``define_metric``: samples are the horizontal axis of every chart, and steps can
    be chosen instead. NaN and infinity are passed on. An exception inside the ``with`` block marks
    the run as failed.

    Args:
        folder: Where ``wandb`` keeps its files; it is made.
        project: The project at W&B.
        name: Name of the run; None lets W&B invent one.
        group: Groups runs, such as seeds.
        config: Settings of the run, for W&B's tables.
        mode: ``"online"``, ``"offline"`` (files alone; ``wandb sync`` uploads them) or
            ``"disabled"``. None leaves it to the environment variable ``WANDB_MODE``.

    Raises:
        MissingDependencyError: wandb is not installed (extra ``wandb``).

    Example:
        >>> import tempfile
        >>> with WandbWriter(tempfile.mkdtemp(), mode="offline") as writer:  # doctest: +SKIP
        ...     writer.write({"loss": 0.5}, samples=8, step=1)
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str = "adadagrad-kernels",
        name: str | None = None,
        group: str | None = None,
        config: Mapping[str, Any] | None = None,
        mode: str | None = None,
    ) -> None:
        wandb = require("wandb", "the Weights & Biases writer", "wandb")
        # Where the folder is missing, wandb would take a temporary one and only warn.
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            dir=str(folder),
            project=project,
            name=name,
            group=group,
            config=dict(config or {}),
            mode=mode,
            # A run of its own, whatever else in the process uses wandb.
            reinit="create_new",
        )
        self._run.define_metric("samples_seen")
        self._run.define_metric("steps", step_metric="samples_seen")
        self._run.define_metric("*", step_metric="samples_seen")
        self._open = True

    def write(self, metrics: Mapping[str, Value], *, samples: int, step: int) -> None:
        """Logs one row of the run's history."""
        row = with_place(metrics, samples, step)
        self._run.log(
            {name: float("nan") if value is None else value for name, value in row.items()}
        )

    def close(self) -> None:
        """Finishes the run."""
        self._finish(0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._finish(0 if kind is None else 1)

    def _finish(self, exit_code: int) -> None:
        if self._open:
            self._open = False
            self._run.finish(exit_code=exit_code)
