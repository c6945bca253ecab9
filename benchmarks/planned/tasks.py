"""What a process is told to do: a probe, a run of one process, the same run over all ranks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch.distributed as dist

from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.probe import gradient_bytes, steps_alone, steps_together
from adadagrad_kernels.training.worker_steps import steps_of_workers
from adadagrad_kernels.writers.metrics_file import strict
from benchmarks.planned.ways import config


@cache
def _data() -> Data:
    return load_data("digits", None)


def probe_alone(way: str, model: str, samples: int, sizes: Sequence[int]) -> dict[str, Any]:
    """What a hardware table has of one worker, as ``adadagrad-kernels probe`` measures it."""
    settings = config(way, samples, model)
    return {
        "steps": steps_alone(settings, _data(), sizes),
        "gradient_bytes": gradient_bytes(settings, _data()),
    }


def probe_together(way: str, model: str, samples: int, sizes: Sequence[int]) -> dict[str, Any]:
    """What it has of several, likewise; of all ranks."""
    return steps_together(config(way, samples, model), _data(), sizes)


def run(way: str, model: str, samples: int) -> list[dict[str, Any]]:
    """The lines of the metrics of the run by the training core."""
    lines: list[dict[str, Any]] = []
    trainer = Trainer(config(way, samples, model), _data())
    for _ in trainer.run(lines.append, Progress("", 0, quiet=True)):
        pass
    return [strict(line) for line in lines]


def alone(way: str, model: str, samples: int, steps: int) -> list[float]:
    """Seconds of so many steps of that run, and the samples in them."""
    trainer = Trainer(config(way, samples, model), _data())
    for _ in trainer.run(lambda line: None, Progress("", 0, quiet=True)):
        if trainer.controller.steps == steps:
            break
    return [trainer.seconds, trainer.controller.samples_seen]


def together(way: str, model: str, samples: int, steps: int) -> list[float]:
    """The same of the run as all ranks make it, by DistributedDataParallel."""
    every = steps_of_workers(config(way, samples, model), _data())
    dist.barrier()
    started = time.perf_counter()
    seen = 0
    for controller in every:
        seen = controller.samples_seen
        if controller.steps == steps:
            break
    return [time.perf_counter() - started, seen]
