"""A user's program: type checkers at their strictest must find nothing, and it learns a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import adadagrad_kernels as adk
from adadagrad_kernels import ops

INPUTS = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
TARGETS = INPUTS @ torch.tensor([[1.0], [2.0], [3.0]])


class Doubling:
    """A test of the user's own, with attributes where the protocol has properties."""

    name = "doubling"
    needs_variance = False
    needs_inner_products = False

    def __call__(self, statistics: adk.GradientStatistics) -> adk.Decision:
        return adk.Decision(self.name, 2.0 * statistics.batch_size, False, {})


CRITERIA: Sequence[adk.BatchSizeCriterion] = [
    adk.NormTest(eta=0.5),
    adk.CoordinateNormTest(eta=0.5),
    adk.InnerProductTest(theta=0.9),
    adk.AugmentedInnerProductTest(theta=0.9, nu=5.84),
    adk.GradientSimilarity(target=0.5, averaged=True),
    Doubling(),
]
RULES: Sequence[adk.BatchSizeRule] = [
    adk.CABS(lr=0.1),
    adk.GradientDiversity(delta=0.5, dataset_size=64),
    adk.GradientNoiseScale(),
    adk.RandomIncrease(),
    adk.SmallestOf(adk.NormTest(eta=0.5)),
]
SCHEDULES: Sequence[adk.BatchSizeSchedule] = [
    adk.LinearSchedule(8, 64, samples=1000),
    adk.PlateauSchedule(8),
    adk.Schedule(lambda samples: 8 + samples / 100),
]


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Each, as torch takes it."""
    return [
        adk.Adagrad(model.parameters(), lr=0.1),
        adk.AdagradNorm(model.parameters(), lr=0.1, row_wise=True),
        adk.DelayedAdagradNorm([{"params": list(model.parameters()), "lr": 0.1}]),
    ]


def controllers() -> list[adk.BatchController]:
    """One of every policy that a controller takes."""
    policies = [*CRITERIA, *RULES, *SCHEDULES, None]
    made = [adk.BatchController(adk.NormTest(eta=0.5), batch_size=8, max_batch_size=64)]
    for policy in policies:
        size = None if isinstance(policy, adk.BatchSizeSchedule) else 8
        made.append(adk.BatchController(policy, batch_size=size, max_batch_size=64))
    return made


def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean of the samples' own."""
    return (outputs - targets).square().mean()


def train(controller: adk.BatchController, epochs: int) -> list[float]:
    """The README's loop with a learning rate that follows; the loss after every epoch."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = adk.Adagrad(model.parameters(), lr=0.5)
    rate = adk.BatchSizeLR(optimizer, "sqrt", batch_size=controller.batch_size)
    data = TensorDataset(INPUTS, TARGETS)
    sampler = adk.AdaptiveBatchSampler(data, controller, seed=1)
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(data, batch_sampler=sampler)
    losses: list[float] = []
    with adk.layer_statistics(model, variance=True, inner_products=True) as recorder:
        for _ in range(epochs):
            for inputs, targets in loader:
                optimizer.zero_grad()
                loss = loss_fn(model(inputs), targets)
                loss.backward()
                statistics = recorder.statistics()
                optimizer.step()
                if statistics is not None:
                    statistics = replace(statistics, loss=loss.item())
                rate.update(controller.update(statistics, len(inputs)), statistics)
            with torch.no_grad():
                losses.append(loss_fn(model(INPUTS), TARGETS).item())
    return losses


def measured(model: nn.Module) -> list[adk.GradientStatistics]:
    """The record of a batch, from every source."""
    found = [adk.backward_with_statistics(model, loss_fn, INPUTS, TARGETS)]
    model.zero_grad()
    found.append(adk.PerSampleGradients(model, loss_fn).backward(INPUTS, TARGETS))
    model.zero_grad()
    micro_batches = adk.MicroBatchGradients(model)
    for inputs, targets in zip(INPUTS.split(1), TARGETS.split(1), strict=True):
        with micro_batches.micro_batch(samples=1):
            (loss_fn(model(inputs), targets) / len(INPUTS)).backward()
    return [*found, micro_batches.result()]


def kernels() -> tuple[Tensor, Tensor]:
    """A step along the mean gradient, and the same in one call."""
    param, state = torch.zeros(3), torch.zeros(3)
    moments = ops.batch_moments(INPUTS)
    sq_norm: Tensor = ops.adagrad_step_([param], [moments.mean], [state], lr=0.1)
    assert sq_norm.item() > 0.0
    fused, fused_state = torch.zeros(3), torch.zeros(3)
    ops.batch_adagrad_step_(fused, fused_state, INPUTS, lr=0.1, variance=False)
    return param, fused
