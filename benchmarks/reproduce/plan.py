"""How a model is trained: a plan, and the objects that it names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from adadagrad_kernels import batching, criteria, optim

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adagrad": optim.Adagrad,
    "adagrad-norm": optim.AdagradNorm,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
}


@dataclass(frozen=True)
class Plan:
    """One way to spend a budget of samples.

    Attributes:
        method: as the tables name it.
        optimizer: ``kind``, one of ``OPTIMIZERS``, and its arguments.
        batch_size: of the first step.
        samples: the budget.
        evaluate_every: samples between two evaluations.
        growth: ``rule`` and its constants, see ``growth_of``; empty for a fixed size.
        max_batch: the cap of a size that grows.
        shape: of the learning rate over the budget, ``constant`` or ``cosine``.
        warmup: share of the budget in which the rate rises from zero.
        floor: the rate at the end of the cosine, as a share of its height.
        on_growth: what a batch that grows does to the rate: to the power of this exponent times
            as large; 0 leaves it, 1 is linear scaling.
        targets: values by metric.
        micro_batch: samples in a forward pass, at most.
        test_interval: steps between two tests.
    """

    method: str
    optimizer: dict[str, Any]
    batch_size: int
    samples: int
    evaluate_every: int
    growth: dict[str, Any] = field(default_factory=dict)
    max_batch: int | None = None
    shape: str = "constant"
    warmup: float = 0.0
    floor: float = 0.0
    on_growth: float = 0.0
    targets: dict[str, list[float]] = field(default_factory=dict)
    micro_batch: int = 512
    test_interval: int = 1

    def rate(self, samples_seen: int) -> float:
        """The learning rate before a step, over its height."""
        progress = samples_seen / self.samples
        if progress < self.warmup:
            return progress / self.warmup
        if self.shape == "constant":
            return 1.0
        share = (progress - self.warmup) / (1.0 - self.warmup)
        return self.floor + (1.0 - self.floor) * (1.0 + math.cos(math.pi * share)) / 2.0


def optimizer_of(plan: Plan, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The plan's optimizer."""
    arguments = dict(plan.optimizer)
    return OPTIMIZERS[arguments.pop("kind")](parameters, **arguments)


def controller_of(
    plan: Plan, size: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> batching.BatchController:
    """The plan's controller, for a training set of a size."""
    arguments = dict(plan.growth)
    rule = arguments.pop("rule", "fixed")
    if rule == "doubling":
        schedule = batching.StepSchedule(plan.batch_size, step_size=plan.growth["every"])
        return batching.BatchController(schedule, max_batch_size=plan.max_batch or plan.batch_size)
    rules: dict[str, Callable[[], Any]] = {
        "fixed": lambda: None,
        "norm": lambda: criteria.NormTest(**arguments),
        "diversity": lambda: criteria.GradientDiversity(dataset_size=size, **arguments),
        "metric": lambda: criteria.MetricNormTest(
            optimizer=optimizer, parameters=dict(model.named_parameters()), **arguments
        ),
    }
    return batching.BatchController(
        rules[rule](),
        batch_size=plan.batch_size,
        max_batch_size=plan.max_batch or plan.batch_size,
        test_interval=plan.test_interval,
    )


def next_batch(plan: Plan, controller: batching.BatchController) -> int:
    """The size of the next batch.

    The last two batches share what is left of the budget: a last step of a few samples would
    undo what was reached.
    """
    size, left = controller.batch_size, plan.samples - controller.samples_seen
    return (left + 1) // 2 if size < left < 2 * size else size
