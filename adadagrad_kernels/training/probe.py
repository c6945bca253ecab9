"""Seconds of a step against the batch, measured on this machine, by one worker and by several."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import torch
import torch.distributed as dist

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.training.branches import fixed, tested
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.worker_steps import steps_of_workers

#: Steps before the first that counts.
WARM_UP = 3
#: Steps that count, at least, and the seconds after which no further one is needed.
STEPS, SECONDS = 8, 1.0
#: Batches of a run that is timed, more than are needed.
BUDGET = 100_000
#: Parts of these, by whose means the time of a step is told.
PARTS = 4
#: Bytes of the two all-reduces by which latency and bandwidth are told apart, and their number.
SHORT, LONG, REDUCTIONS = 64, 4 << 20, 40


def steps_alone(config: RunConfig, data: Data, sizes: Sequence[int]) -> list[dict[str, float]]:
    """Rows of the table that `plan` reads, of one worker that is no rank of a process group."""
    return [{"batch": b, **_seconds(config, b, seconds_of_step, data)} for b in sizes]


def steps_together(config: RunConfig, data: Data, shares: Sequence[int]) -> dict[str, Any]:
    """What the table has of several workers; every rank of the default process group calls it."""
    world = dist.get_world_size()
    rows = [
        {"share": s, **_seconds(config, s * world, seconds_of_worker_step, data)} for s in shares
    ]
    latency, bandwidth = network()
    return {
        "latency": latency,
        "bandwidth": bandwidth,
        "workers": {"count": world, "steps": rows},
    }


def _seconds(
    config: RunConfig, size: int, measure: Callable[[RunConfig, Data], float], data: Data
) -> dict[str, float]:
    """Of a step at a size without statistics, and with the test of the run if it has one."""
    samples = BUDGET * size
    found = {"seconds": measure(fixed(config, size, samples), data)}
    if config.test != "none" and size > 1:  # one sample is never tested
        found["tested_seconds"] = measure(tested(config, size, samples), data)
    return found


def seconds_of_step(config: RunConfig, data: Data) -> float:
    """Of a run whose size stays what it is."""
    trainer = Trainer(config, data)
    warm_up, least = _steps(config)
    times: list[float] = []
    before = 0.0
    started = time.perf_counter()
    for count, _ in enumerate(trainer.run(lambda line: None, _Unseen()), start=1):
        trainer.controller.batch_size = config.batch_size
        if count == warm_up:
            started = time.perf_counter()
        elif count > warm_up:
            times.append(trainer.seconds - before)
            if len(times) >= least and time.perf_counter() - started > SECONDS:
                break
        before = trainer.seconds
    return middle(_between_tests(times, config))


def middle(times: Sequence[float]) -> float:
    """The median of the means of a few parts, one after another.

    A run takes the sum of its steps, slow ones too, so a median of steps would be too short; of
    what slowed the machine down in one part alone, nothing is left.
    """
    parts = min(PARTS, len(times))
    cuts = [len(times) * part // parts for part in range(parts + 1)]
    return statistics.median(statistics.fmean(times[a:b]) for a, b in pairwise(cuts))


def seconds_of_worker_step(config: RunConfig, data: Data) -> float:
    """Of the same on every rank of the default process group, which all call this.

    From one step to the next: the share's own passes, the gradient's all-reduce behind and beside
    them, and the time that a rank waits for the slowest.
    """
    every = _of_one_size(steps_of_workers(config, data), config.batch_size)
    warm_up, least = _steps(config)
    for _ in islice(every, warm_up):
        pass
    dist.barrier()
    started = time.perf_counter()
    for _ in islice(every, least // 2):
        pass
    pace = _slowest(time.perf_counter() - started) / (least // 2)
    times = []
    started = time.perf_counter()
    for _ in islice(every, max(least, math.ceil(SECONDS / pace))):
        now = time.perf_counter()
        times.append(now - started)
        started = now
    return _slowest(middle(_between_tests(times, config)))


def _of_one_size(steps: Iterator[BatchController], size: int) -> Iterator[BatchController]:
    """Steps whose tests do not change the size of the next."""
    for controller in steps:
        controller.batch_size = size
        yield controller


def _steps(config: RunConfig) -> tuple[int, int]:
    """Before the first that counts, and those that count at least."""
    return max(WARM_UP, config.test_interval), max(STEPS, PARTS * config.test_interval)


def _between_tests(times: Sequence[float], config: RunConfig) -> list[float]:
    """Means over steps of which one had a test."""
    each = config.test_interval
    return [statistics.fmean(times[k : k + each]) for k in range(0, len(times) - each + 1, each)]


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
