"""`adadagrad-kernels train`."""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch

from adadagrad_kernels.cli.errors import Interrupted, StoppedError
from adadagrad_kernels.cli.folder import RunFolder
from adadagrad_kernels.cli.interrupt import SignalWatch
from adadagrad_kernels.cli.lock import FolderLock
from adadagrad_kernels.cli.metrics_log import MetricsLog, require_writers
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.cli.table import format_pairs
from adadagrad_kernels.training.config import RunConfig, inherited, resolve
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.writers.metrics_file import MetricsFile, strict


def run(arguments: argparse.Namespace) -> int:
    """Trains as the options say and prints the summary.

    Raises:
        Interrupted: On SIGINT or SIGTERM, after a checkpoint.
        StoppedError: When the disk is full.
    """
    require_writers(arguments.writer)
    data = load_data(arguments.data, arguments.data_dir)
    sizes = (len(data.train), len(data.test))
    config = resolve(arguments, *sizes)
    with FolderLock(arguments.out):
        folder = RunFolder(arguments.out, arguments.checkpoint_every)
        if arguments.resume:
            # What was not given, and would follow from --samples, is as the run has it.
            config = resolve(inherited(arguments, folder.saved_options()), *sizes)
        summary = _run(arguments, config, data, folder)
    print(json.dumps(strict(summary)) if arguments.json else format_summary(summary))
    return 0


def _run(
    arguments: argparse.Namespace, config: RunConfig, data: Data, folder: RunFolder
) -> dict[str, Any]:
    """Begins or resumes the run in its folder; returns the summary."""
    fingerprint = {**config.options(), "the data (CRC-32)": data.checksum}
    # Settles how many threads a matrix product takes: without an explicit number MKL chooses for
    # each product anew, and rounding, with it the resumed run, would depend on what ran before.
    torch.set_num_threads(torch.get_num_threads())
    trainer = Trainer(config, data)
    with (
        folder.resume(trainer, fingerprint)
        if arguments.resume
        else folder.begin(fingerprint, overwrite=arguments.overwrite) as metrics
    ):
        try:
            with MetricsLog(metrics, folder.metrics, arguments.writer, config.options()) as log:
                _train(trainer, folder, metrics, log, quiet=arguments.quiet)
                return _finish(trainer, folder, metrics, log)
        except OSError as error:
            if folder.saved_samples is None:
                folder.forget_if_empty()
                raise
            raise StoppedError(
                f"{error}; the last good checkpoint is of sample {folder.saved_samples:,}: "
                "put right what is wrong, then run again with --resume"
            ) from error


def _train(
    trainer: Trainer, folder: RunFolder, metrics: MetricsFile, log: MetricsLog, *, quiet: bool
) -> None:
    progress = Progress(
        f"{trainer.config.optimizer}, {trainer.config.policy}",
        trainer.config.samples,
        done=trainer.controller.samples_seen,
        quiet=quiet,
    )
    with SignalWatch() as watch:
        try:
            for _ in trainer.run(log.write, progress):
                if watch.received is not None:
                    folder.save(trainer, metrics)
                    raise Interrupted(
                        watch.received,
                        f"stopped after {trainer.controller.samples_seen:,} of "
                        f"{trainer.config.samples:,} samples; continue with --resume",
                    )
                folder.save_if_due(trainer, metrics)
        finally:
            progress.close()


def _finish(
    trainer: Trainer, folder: RunFolder, metrics: MetricsFile, log: MetricsLog
) -> dict[str, Any]:
    # The checkpoint comes before the last line, so that resuming a finished run writes that line
    # again and nothing twice.
    folder.save(trainer, metrics)
    results = trainer.summary()
    log.write({**results, "end": True})
    metrics.sync()
    summary = {
        "options": trainer.config.options(),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        **results,
    }
    folder.finish(trainer, summary)
    return summary


def format_summary(summary: dict[str, Any]) -> str:
    """Formats the summary for people."""
    micro_seconds = summary["seconds"] / summary["samples_seen"] * 1e6
    pairs = [
        ("samples", f"{summary['samples_seen']:,}"),
        ("steps", f"{summary['steps']:,}"),
        ("average batch", f"{summary['batch/average']:,.1f}"),
        ("last batch size", f"{summary['batch/global']:,}"),
        ("training loss", f"{summary['train_loss']:.4f}"),
        ("test loss", f"{summary['test_loss']:.4f}"),
        ("test accuracy", f"{summary['test_accuracy']:.2%}"),
        ("seconds", f"{summary['seconds']:.1f} ({micro_seconds:,.0f} µs per sample)"),
        (
            "wall time",
            f"{summary['wall_seconds']:.1f} seconds, evaluations and checkpoints included",
        ),
        ("statistics share", f"{summary['statistics_share']:.1%} of the seconds"),
    ]
    if summary["nonfinite_steps"]:
        pairs.append(("steps with NaN or infinite statistics", f"{summary['nonfinite_steps']:,}"))
    return format_pairs(pairs)
