"""All parts together: a loop that grows its batch, stops, and goes on bit for bit."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adadagrad_kernels.batching import (
    AdaptiveBatchSampler,
    BatchController,
    MicroBatchPlanner,
    SamplesLR,
)
from adadagrad_kernels.criteria import InnerProductTest, NormTest
from adadagrad_kernels.statistics import PerSampleGradients

SAMPLES, BUDGET = 300, 1500


def dataset():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, 5, generator=generator)
    noise = torch.randn(SAMPLES, 1, generator=generator)
    return TensorDataset(inputs, inputs.sum(1, keepdim=True) + noise)


class Run:
    """What a checkpoint has to hold, and one step of training."""

    def __init__(self, criterion):
        torch.manual_seed(7)
        self.model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.1), nn.Linear(8, 1))
        self.optimizer = torch.optim.Adagrad(self.model.parameters(), lr=0.1)
        self.schedule = SamplesLR(
            torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, BUDGET // 10), 10
        )
        self.controller = BatchController(criterion, batch_size=4, max_batch_size=128)
        self.sampler = AdaptiveBatchSampler(SAMPLES, self.controller, total_samples=BUDGET)
        # An iterator of the loader draws a number, from the global generator unless it has its
        # own: a resumed run would draw another dropout.
        self.loader = DataLoader(dataset(), batch_sampler=self.sampler, generator=torch.Generator())
        self.planner = MicroBatchPlanner(max_samples=32)
        self.source = PerSampleGradients(
            self.model, nn.functional.mse_loss, inner_products=criterion.needs_inner_products
        )
        self.sizes = []

    def train(self, steps=None):
        for inputs, targets in self.loader:

            def step(parts, inputs=inputs, targets=targets):
                return self.source.backward(inputs[parts[0]], targets[parts[0]])

            statistics = self.planner.run(step, len(inputs), self.model, source=self.source)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step(len(inputs))
            self.controller.update(statistics)
            self.sizes.append(len(inputs))
            if len(self.sizes) == steps:
                break

    def parts(self):
        names = ("model", "optimizer", "schedule", "controller", "sampler", "planner")
        return {name: getattr(self, name) for name in names}

    def save(self):
        file = io.BytesIO()
        states = {name: part.state_dict() for name, part in self.parts().items()}
        torch.save(states | {"random": torch.get_rng_state()}, file)
        return file.getvalue()

    def load(self, checkpoint):
        states = torch.load(io.BytesIO(checkpoint), weights_only=True)
        for name, part in self.parts().items():
            part.load_state_dict(states[name])
        torch.set_rng_state(states["random"])


@pytest.mark.parametrize("criterion", [NormTest(0.6), InnerProductTest(0.5)])
def test_a_run_that_was_stopped_ends_bit_for_bit_like_one_that_was_not(criterion):
    whole = Run(criterion)
    whole.train()
    assert sum(whole.sizes) == whole.controller.samples_seen == whole.sampler.drawn == BUDGET
    assert whole.sizes[:-1] == sorted(whole.sizes[:-1])
    assert whole.sizes[-2] > 4 * whole.sizes[0]
    assert whole.schedule.get_last_lr() == [pytest.approx(0.0, abs=1e-9)]
    for stop in (1, len(whole.sizes) // 2, len(whole.sizes) - 1):
        first = Run(criterion)
        first.train(steps=stop)
        checkpoint = first.save()
        second = Run(criterion)
        second.load(checkpoint)
        second.train()
        assert first.sizes + second.sizes == whole.sizes
        assert second.controller.metrics() == whole.controller.metrics()
        for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)
