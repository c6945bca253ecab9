"""Runs of a plan on a task, by the package's training core, as the experiments list them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from adadagrad_kernels import SamplesLR
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.training.data import Data, Samples
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.objectives import Objective
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Options, Run
from benchmarks.reproduce.targets import Targets
from benchmarks.reproduce.tasks import Task

#: Points of a curve that are kept.
POINTS = 40
#: What is kept of a line of the core's metrics, and the names that it has there.
COUNTS = {
    "steps": "steps",
    "samples": "samples_seen",
    "seconds": "seconds",
    "statistics_seconds": "statistics_seconds",
    "batch": "batch/global",
}
METRICS = ("train_loss", "test_loss", "test_accuracy")


def training_run(
    task: str,
    make: Callable[[], Task],
    plan: Plan,
    seed: int,
    options: Options,
    *,
    threads: int = 1,
    data: str = "",
) -> Run:
    """A run of a plan on a task.

    Args:
        make: makes the task; asked when the run is made.
        threads: of torch, where the command line does not say otherwise.
        data: says which data, where the name of the task does not.
    """
    threads = options.threads or threads
    settings = {"data": data, "threads": threads, "plan": asdict(plan)}

    def measure() -> dict[str, Any]:
        warm_up()
        progress = Progress(f"{task}, {plan.method}", plan.samples, quiet=options.quiet)
        try:
            with using_threads(threads):
                return train(make(), plan, seed, progress)[1]
        finally:
            progress.close()

    return Run(task, plan.method, seed, settings, measure)


def train(task: Task, plan: Plan, seed: int, progress: Progress) -> tuple[Trainer, dict[str, Any]]:
    """Train to the end of the budget, or until the loss is no number; and what was reached."""
    trainer = task.trainer(plan.config(task.name, seed), task.data, task.build)
    rate = SamplesLR(LambdaLR(trainer.optimizer, plan.rate), samples_per_step=1)
    targets, curve = Targets(plan.targets), []

    def record(line: dict[str, Any]) -> None:
        metrics = {name: line[name] for name in METRICS if name in line}
        if metrics:
            metrics |= task.also(trainer.model)
            counts = _counts(line)
            targets.see(metrics, counts)
            curve.append({**counts, **metrics})

    def evaluate() -> None:
        record({**trainer.counts(), **trainer.evaluate()})

    evaluate()
    loss = 0.0
    with closing(trainer.run(record, progress)) as steps:
        for loss in steps:
            rate.step(trainer.controller.samples_seen - rate.samples_seen)
            if not math.isfinite(loss):
                break
    if curve[-1]["samples"] < trainer.controller.samples_seen:
        evaluate()
    return trainer, {
        **_counts(trainer.counts()),
        "diverged": not math.isfinite(loss),
        "final": curve[-1],
        "targets": targets.reached,
        "curve": _thinned(curve),
    }


def _counts(line: dict[str, Any]) -> dict[str, float]:
    return {name: line[there] for name, there in COUNTS.items()}


def _thinned(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """At most so many points, the first and the last among them, with five digits."""
    places = torch.linspace(0, len(curve) - 1, min(POINTS, len(curve))).round().int().tolist()
    return [
        {name: float(f"{value:.5g}") for name, value in curve[place].items()} for place in places
    ]


@cache
def warm_up() -> None:
    """Train a little, or the first run would be timed with what is loaded at a first step."""
    samples = Samples(torch.randn(8, 2), torch.randn(8, 1))
    data = Data(samples, samples, checksum=0, objective=Objective(F.mse_loss))
    plan = Plan("", {"kind": "sgd", "lr": 1e-9}, 2, 8, 8, growth={"rule": "norm", "eta": 9.0},
                max_batch=4)  # fmt: skip
    train(Task("", data, partial(nn.Linear, 2, 1)), plan, 0, Progress("", 8, quiet=True))


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Torch on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
