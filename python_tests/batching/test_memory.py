"""The memory probe against counts by hand and against torch's own allocation record."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from adadagrad_kernels.batching import PeakMemory, is_out_of_memory

KILO = 4000  # bytes of 1,000 float32


def mlp():
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 10))


def backward_of(model, samples):
    inputs, targets = torch.randn(samples, 64), torch.zeros(samples, dtype=torch.long)

    def step():
        nn.functional.cross_entropy(model(inputs), targets).backward()

    return step


def per_sample_gradients_of(model, samples):
    inputs, targets = torch.randn(samples, 64), torch.zeros(samples, dtype=torch.long)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters, sample, target):
        outputs = functional_call(model, parameters, (sample[None],))
        return nn.functional.cross_entropy(outputs, target[None])

    def step():
        gradients = vmap(grad(loss), (None, 0, 0))(parameters, inputs, targets)
        return torch.cat([value.flatten(1) for value in gradients.values()], 1).sum()

    return step


def recorded_peak(function):
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        function()
    live = peak = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


@pytest.mark.parametrize("step_of", [backward_of, per_sample_gradients_of])
def test_the_peak_is_that_of_the_allocator(step_of):
    model = mlp()
    step = step_of(model, 16)
    model.zero_grad()
    with PeakMemory() as memory:
        step()
    model.zero_grad()
    assert memory.peak_bytes == pytest.approx(recorded_peak(step), rel=0.01)


def test_a_chunk_of_per_sample_gradients_is_seen():
    model = mlp()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    peaks = []
    for samples in (8, 16):
        with PeakMemory() as memory:
            per_sample_gradients_of(model, samples)()
        peaks.append(memory.peak_bytes)
    per_sample = (peaks[1] - peaks[0]) / 8
    # Twice, because the step flattens them into one matrix.
    assert per_sample >= 2 * 4 * parameters


def test_temporaries_views_and_updates_in_place_count_once():
    outside = torch.zeros(1000)
    with PeakMemory() as memory:
        first = torch.ones(1000)
        assert (memory.live_bytes, memory.peak_bytes) == (KILO, KILO)
        view = first[10:20]
        first += 1
        outside += 1
        part = outside[:5]
        assert (memory.live_bytes, memory.peak_bytes) == (KILO, KILO)
        del first
        assert memory.live_bytes == KILO  # the view keeps it
        del view
        assert memory.live_bytes == 0
        kept = (torch.ones(1000) * 2 + 1).sum()
        assert (memory.live_bytes, memory.peak_bytes) == (4, 2 * KILO)
        grown = torch.empty(0)
        grown.resize_(1000)
        assert memory.live_bytes == 4 + KILO
    assert part.sum() == 5
    assert kept.item() == 3000


def test_what_autograd_saves_stays_until_the_backward():
    weight = torch.ones(1000, requires_grad=True)
    with PeakMemory() as memory:
        loss = (weight * 2).exp().exp().sum()
        assert memory.live_bytes == 2 * KILO + 4
        loss.backward()
        del loss
        assert memory.live_bytes == KILO  # weight.grad
    assert memory.peak_bytes >= 3 * KILO


def test_the_cpu_allocator_itself_is_recognised():
    with pytest.raises(RuntimeError) as failure:
        torch.empty(2**50)
    assert is_out_of_memory(failure.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] . DefaultCPUAllocator: not enough memory: you tried"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_failed_allocations_are_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("shape mismatch: the memory format is not contiguous"),
        RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904]"),
        RuntimeError("view size is not compatible with input tensor's size, memory layout"),
        ValueError("DefaultCPUAllocator: not enough memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)
