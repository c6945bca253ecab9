"""A run of train, as its checkpoint has it, and its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adadagrad_kernels.cli.checkpoint import load_checkpoint
from adadagrad_kernels.errors import CheckpointError
from adadagrad_kernels.training.branches import config_of
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.data_sets import load_data


class SavedRun:
    """Reads both.

    Args:
        folder: of the run.
        data_dir: of `--data-dir`.

    Attributes:
        checkpoint: the file.
        config: of the run.
        state: of its trainer.
        data: that it was trained on.

    Raises:
        CheckpointError: There is no checkpoint of a run of train, or the data are others.
    """

    def __init__(self, folder: Path, data_dir: Path | None) -> None:
        self.checkpoint = folder / "checkpoint.adak"
        if not self.checkpoint.exists():
            raise CheckpointError(
                f"{self.checkpoint} is not there: give the folder of a run of train, finished or "
                "not"
            )
        saved = load_checkpoint(self.checkpoint)
        if not {"fingerprint", "trainer"} <= saved.keys():
            raise CheckpointError(
                f"{self.checkpoint}: not a checkpoint of a run of train: give its folder"
            )
        options: Mapping[str, Any] = saved["fingerprint"]
        self.config: RunConfig = config_of(options)
        self.state: Mapping[str, Any] = saved["trainer"]
        self.data: Data = load_data(self.config.data, data_dir)
        if (known := options.get("the data (CRC-32)")) != self.data.checksum:
            raise CheckpointError(
                f"{self.checkpoint}: is of a run on data with the checksum {known}, and these have "
                f"{self.data.checksum}: give the run's own data, with --data-dir where it needs one"
            )
