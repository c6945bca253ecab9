"""Small runs of the training loop, and what they write."""

from __future__ import annotations

import math
from typing import Any

from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.loop import Trainer

CONFIG = RunConfig(
    data="digits",
    model="logistic",
    optimizer="adagrad",
    lr=0.05,
    test="norm",
    eta=0.5,
    batch_size=4,
    max_batch=150,
    samples=2000,
    evaluate_every=500,
    log_every=1,
)


def train(trainer: Trainer, steps: float = math.inf) -> list[dict[str, Any]]:
    """Runs to the end, or for some steps, and returns the lines of metrics."""
    lines: list[dict[str, Any]] = []
    for count, _ in enumerate(trainer.run(lines.append, Progress("", 1, quiet=True)), start=1):
        if count == steps:
            break
    return lines


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("seconds", "statistics_seconds", "statistics_share")
    return [{key: value for key, value in line.items() if key not in times} for line in lines]
