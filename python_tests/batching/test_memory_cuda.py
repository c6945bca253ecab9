"""The memory manager where memory really ends: on a CUDA device."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from adadagrad_kernels.batching import MicroBatchPlanner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def model_and_step(samples):
    model = nn.Sequential(nn.Linear(64, 4096), nn.Dropout(0.5), nn.Linear(4096, 1)).cuda()
    inputs = torch.randn(samples, 64, device="cuda")

    def step(parts):
        for part in parts:
            (model(inputs[part]).square().sum() / samples).backward()

    return model, step


def test_a_bound_in_bytes_holds_on_the_device():
    model, step = model_and_step(8192)
    bound = 32 * 2**20
    planner = MicroBatchPlanner(max_bytes=bound)
    planner.probe(step, 8192, model)
    assert 64 < planner.micro_batch_size < 8192
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    planner.run(step, 8192, model)
    assert 0.7 * bound < torch.cuda.max_memory_allocated() - before <= 1.05 * bound


def test_a_device_that_is_full_gets_smaller_micro_batches():
    model, step = model_and_step(8192)
    twin = copy.deepcopy(model)
    rng = torch.cuda.get_rng_state()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + 160 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / total)
    try:
        planner = MicroBatchPlanner()
        planner.run(step, 8192, model)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert planner.out_of_memory_events > 0
    torch.cuda.set_rng_state(rng)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.load_state_dict(twin.state_dict())
    model.zero_grad()
    MicroBatchPlanner(max_samples=planner.micro_batch_size).run(step, 8192, model)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
