"""Seconds of a step against the batch, measured on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from adadagrad_kernels.training.branches import fixed
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.loop import Progress, Trainer

#: Steps before the first that counts.
WARM_UP = 3
#: Steps that count, at least, and the seconds after which no further one is needed.
STEPS, SECONDS = 8, 1.0


def seconds_of_step(config: RunConfig, data: Data, size: int, progress: Progress) -> float:
    """The median over steps of a run's model and optimizer at a fixed size, without statistics.

    Args:
        config: of the run.
        data: of the run.
        size: of the batch.
        progress: is told of every step.
    """
    steps = WARM_UP + 10_000
    trainer = Trainer(fixed(config, size, steps * size), data)
    times: list[float] = []
    before = 0.0
    started = time.perf_counter()
    for count, _ in enumerate(trainer.run(lambda line: None, progress), start=1):
        if count == WARM_UP:
            started = time.perf_counter()
        elif count > WARM_UP:
            times.append(trainer.seconds - before)
            if len(times) >= STEPS and time.perf_counter() - started > SECONDS:
                break
        before = trainer.seconds
    return statistics.median(times)


def gradient_bytes(config: RunConfig, data: Data) -> int:
    """Of all parameters that are trained."""
    model = Trainer(fixed(config, 1, 1), data).model
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def powers(largest: int) -> Sequence[int]:
    """Powers of two up to a size."""
    return [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]
