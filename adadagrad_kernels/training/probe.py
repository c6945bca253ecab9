"""Seconds of a step against the batch, measured on this machine, by one worker and by several."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import torch
import torch.distributed as dist

from adadagrad_kernels.training.branches import fixed
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.worker_steps import steps_of_workers

#: Steps before the first that counts.
WARM_UP = 3
#: Steps that count, at least, and the seconds after which no further one is needed.
STEPS, SECONDS = 8, 1.0
#: Parts of these, by whose means the time of a step is told.
PARTS = 4
#: Bytes of the two all-reduces by which latency and bandwidth are told apart, and their number.
SHORT, LONG, REDUCTIONS = 64, 4 << 20, 40


def steps_alone(config: RunConfig, data: Data, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Rows of the table that `plan` reads, of one worker that is no rank of a process group."""
    return [{"batch": b, "seconds": seconds_of_step(config, data, b)} for b in sizes]


def steps_together(config: RunConfig, data: Data, shares: Sequence[int]) -> dict[str, Any]:
    """What the table has of several workers; every rank of the default process group calls it."""
    rows = [{"share": s, "seconds": seconds_of_worker_step(config, data, s)} for s in shares]
    latency, bandwidth = network()
    return {
        "latency": latency,
        "bandwidth": bandwidth,
        "workers": {"count": dist.get_world_size(), "steps": rows},
    }


def seconds_of_step(config: RunConfig, data: Data, size: int) -> float:
    """Of a run's model and optimizer at a fixed size, without statistics.

    Args:
        config: of the run.
        data: of the run.
        size: of the batch.
    """
    steps = WARM_UP + 10_000
    trainer = Trainer(fixed(config, size, steps * size), data)
    times: list[float] = []
    before = 0.0
    started = time.perf_counter()
    for count, _ in enumerate(trainer.run(lambda line: None, _Unseen()), start=1):
        if count == WARM_UP:
            started = time.perf_counter()
        elif count > WARM_UP:
            times.append(trainer.seconds - before)
            if len(times) >= STEPS and time.perf_counter() - started > SECONDS:
                break
        before = trainer.seconds
    return middle(times)


def middle(times: Sequence[float]) -> float:
    """The median of the means of a few parts, one after another.

    A run takes the sum of its steps, slow ones too, so a median of steps would be too short; of
    what slowed the machine down in one part alone, nothing is left.
    """
    parts = min(PARTS, len(times))
    cuts = [len(times) * part // parts for part in range(parts + 1)]
    return statistics.median(statistics.fmean(times[a:b]) for a, b in pairwise(cuts))


def seconds_of_worker_step(config: RunConfig, data: Data, share: int) -> float:
    """Of so many samples on every rank of the default process group, which all call this.

    From one step to the next: the share's own passes, the gradient's all-reduce behind and beside
    them, and the time that a rank waits for the slowest.
    """
    world = dist.get_world_size()
    size = share * world
    every = steps_of_workers(fixed(config, size, 100_000 * size), data)
    for _ in islice(every, WARM_UP):
        pass
    dist.barrier()
    started = time.perf_counter()
    for _ in islice(every, STEPS // 2):
        pass
    pace = _slowest(time.perf_counter() - started) / (STEPS // 2)
    times = []
    started = time.perf_counter()
    for _ in islice(every, max(STEPS, math.ceil(SECONDS / pace))):
        now = time.perf_counter()
        times.append(now - started)
        started = now
    return _slowest(middle(times))


def network() -> tuple[float, float]:
    """Latency and bandwidth between the ranks, by two all-reduces, as ``Hardware`` has them.

    Every rank calls it.
    """
    world = dist.get_world_size()
    short, long = (_slowest(_reduction(size)) for size in (SHORT, LONG))
    moved = 2.0 * (world - 1) / world * (LONG - SHORT)
    latency = short / (2.0 * math.ceil(math.log2(world)))
    return latency, moved / max(long - short, 1e-9)


def gradient_bytes(config: RunConfig, data: Data) -> int:
    """Of all parameters that are trained."""
    model = Trainer(fixed(config, 1, 1), data).model
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def powers(largest: int) -> Sequence[int]:
    """Powers of two up to a size."""
    return [1 << k for k in range(largest.bit_length()) if 1 << k <= largest]


class _Unseen:
    """Progress that nobody looks at."""

    def advance(self, samples: int, batch_size: int, loss: float) -> None:
        """Nothing."""


def _reduction(size: int) -> float:
    """The median of the seconds of an all-reduce of so many bytes that all ranks begin at once."""
    values = torch.zeros(size // 4)
    times = []
    for _ in range(WARM_UP + REDUCTIONS):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP:])


def _slowest(seconds: float) -> float:
    """Of all ranks."""
    found = torch.tensor(seconds, dtype=torch.float64)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return float(found)
