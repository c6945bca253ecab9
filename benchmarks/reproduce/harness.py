"""Runs of a plan on a task, as the experiments list them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache, partial
from typing import Any

import torch
from plan import Plan
from results import Options, Run
from torch import nn
from training import Task, Training

from adadagrad_kernels.cli.progress import Progress


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
                return Training(make(), plan, seed, progress).run()
        finally:
            progress.close()

    return Run(task, plan.method, seed, settings, measure)


@cache
def warm_up() -> None:
    """Train a little, or the first run would be timed with what is loaded at a first step."""
    task = Task(
        torch.randn(8, 2),
        torch.randn(8, 1),
        partial(nn.Linear, 2, 1),
        lambda outputs, targets: (outputs - targets).square().sum(),
        lambda model: {},
    )
    plan = Plan("", {"kind": "sgd", "lr": 0.0}, 2, 8, 8, growth={"rule": "norm", "eta": 9.0},
                max_batch=4)  # fmt: skip
    Training(task, plan, 0, Progress("", 8, quiet=True)).run()


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Torch on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
