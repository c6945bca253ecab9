"""What a process is told to do: a probe, a run of one process, the same run over all ranks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from adadagrad_kernels import AdaptiveBatchSampler, BatchController, layer_statistics
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.training.build import build_model, build_policy
from adadagrad_kernels.training.catalogue import build_optimizer
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.probe import gradient_bytes, seconds_of_step
from adadagrad_kernels.writers.metrics_file import strict
from benchmarks.planned.ways import config

#: Bytes of the two all-reduces by which latency and bandwidth are told apart, and their number.
SHORT, LONG, REDUCTIONS = 64, 4 << 20, 40
#: Steps before those that count: kernels are chosen, memory is taken.
WARM_UP = 3


@cache
def _data() -> Data:
    return load_data("digits", None)


def probe(way: str, samples: int, sizes: Sequence[int]) -> dict[str, Any]:
    """Steps and bytes of a hardware table, as ``adadagrad-kernels probe`` measures them."""
    settings = config(way, samples)
    steps = []
    for size in sizes:
        seconds = seconds_of_step(settings, _data(), size, Progress("", 0, quiet=True))
        steps.append({"batch": size, "seconds": seconds})
    return {"steps": steps, "gradient_bytes": gradient_bytes(settings, _data())}


def reduction(size: int, count: int = REDUCTIONS) -> float:
    """The median of the seconds of an all-reduce of so many bytes."""
    values = torch.ones(max(1, size // 4))
    times = []
    for _ in range(count + WARM_UP):
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - started)
    return statistics.median(times[WARM_UP:])


def run(way: str, samples: int) -> list[dict[str, Any]]:
    """The lines of the metrics of the run by the training core."""
    lines: list[dict[str, Any]] = []
    trainer = Trainer(config(way, samples), _data())
    for _ in trainer.run(lines.append, Progress("", 0, quiet=True)):
        pass
    return [strict(line) for line in lines]


def alone(way: str, samples: int, steps: int) -> list[float]:
    """Seconds of so many steps of that run, and the samples in them."""
    trainer = Trainer(config(way, samples), _data())
    for _ in trainer.run(lambda line: None, Progress("", 0, quiet=True)):
        if trainer.controller.steps == steps:
            break
    return [trainer.seconds, trainer.controller.samples_seen]


def together(way: str, samples: int, steps: int) -> list[float]:
    """The same of the run as all ranks make it, by DistributedDataParallel."""
    settings, data = config(way, samples), _data()
    torch.manual_seed(settings.seed)
    model = DistributedDataParallel(build_model(settings.model, data))
    optimizer = build_optimizer(
        settings.optimizer, model.parameters(), lr=settings.lr, **settings.settings()
    )
    controller = BatchController(
        build_policy(settings, len(data.train), model, optimizer),
        batch_size=settings.batch_size,
        max_batch_size=settings.max_batch,
        test_interval=settings.test_interval,
        growth_cap=settings.growth_cap,
    )
    sampler = AdaptiveBatchSampler(
        len(data.train), controller, seed=settings.seed, total_samples=samples
    )
    ranks, seconds = dist.get_world_size(), 0.0
    dist.barrier()
    with layer_statistics(model, when=controller.wants_test) as source:
        started = time.perf_counter()
        for indices in sampler:
            total = sampler.next_total(controller.samples_seen)
            inputs, targets = data.train.select(torch.tensor(indices))
            optimizer.zero_grad()
            loss = data.objective.loss(model(inputs), targets, reduction="sum") * (ranks / total)
            loss.backward()  # type: ignore[no-untyped-call]
            controller.update(source.statistics(), total)
            optimizer.step()
            if controller.steps == steps:
                break
        seconds = time.perf_counter() - started
    return [seconds, controller.samples_seen]
