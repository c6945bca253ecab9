"""Micro-batches: cuts that add up, and steps that survive planted out-of-memory errors."""

from __future__ import annotations

import copy
import json
import logging
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from adadagrad_kernels.batching import MicroBatchPlanner, PeakMemory
from adadagrad_kernels.statistics import PerSampleGradients

SAMPLES = 24


def noisy_model():
    """Dropout draws random numbers and BatchNorm keeps running sums: both must be put back."""
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
    ).double()


def data():
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(SAMPLES, 6, generator=generator, dtype=torch.float64)
    return inputs, inputs.sum(1, keepdim=True)


def step_over(model, *, fits, error=None, log=None):
    """A training step whose allocator has room for micro-batches of up to `fits` samples.

    It fails in the second micro-batch, after the backward of the first one.
    """
    inputs, targets = data()

    def step(parts):
        total = 0.0
        for number, part in enumerate(parts):
            size = part.stop - part.start
            if log is not None:
                log.append(size)
            loss = (model(inputs[part]) - targets[part]).square().sum() / SAMPLES
            loss.backward()
            if size > fits and number == min(1, len(parts) - 1):
                raise error or torch.OutOfMemoryError("planted")
            total += loss.item()
        return total

    return step


@given(st.integers(1, 300), st.integers(1, 80), st.integers(1, 20))
def test_plans_add_up_and_keep_to_the_bounds(batch_size, max_samples, min_samples):
    max_samples = max(max_samples, min_samples)
    plan = MicroBatchPlanner(max_samples=max_samples, min_samples=min_samples).plan(batch_size)
    assert sum(plan) == batch_size
    assert max(plan) <= max_samples
    assert len(plan) == -(-batch_size // max_samples)
    assert len(set(plan[:-2])) <= 1
    if batch_size >= min_samples and max_samples >= 2 * min_samples - 1:
        assert min(plan) >= min_samples


@pytest.mark.parametrize(
    ("options", "batch_size", "expected"),
    [
        ({}, 10, [10]),
        ({"max_samples": 4}, 10, [4, 4, 2]),
        ({"max_samples": 4}, 3, [3]),
        ({"max_samples": 4, "min_samples": 2}, 9, [4, 3, 2]),
        ({"max_samples": 2, "min_samples": 2}, 5, [2, 2, 1]),
    ],
)
def test_plans_by_hand(options, batch_size, expected):
    assert MicroBatchPlanner(**options).plan(batch_size) == expected


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("planted"),
        MemoryError("planted"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: planted"),
    ],
)
@pytest.mark.parametrize("earlier_gradients", [False, True])
def test_a_step_that_ran_out_of_memory_leaves_no_trace(error, earlier_gradients, caplog):
    model = noisy_model()
    if earlier_gradients:
        model(data()[0]).sum().backward()
    expected = copy.deepcopy(model)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.clone()
    identities = [parameter.grad for parameter in model.parameters()]

    rng = torch.get_rng_state()
    expected_loss = MicroBatchPlanner(max_samples=6).run(
        step_over(expected, fits=6), SAMPLES, expected
    )
    expected_rng = torch.get_rng_state()

    torch.set_rng_state(rng)
    sizes = []
    planner = MicroBatchPlanner()
    loss = planner.run(step_over(model, fits=6, error=error, log=sizes), SAMPLES, model)
    assert sizes == [24, 12, 12, 6, 6, 6, 6]
    assert (planner.micro_batch_size, planner.out_of_memory_events) == (6, 2)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "micro-batches of 24: repeating the step with 12" in caplog.text

    assert loss == expected_loss
    assert torch.equal(torch.get_rng_state(), expected_rng)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), expected.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    if earlier_gradients:
        pairs = zip(model.parameters(), identities, strict=True)
        assert all(parameter.grad is gradient for parameter, gradient in pairs)

    sizes.clear()  # what was learned stays
    planner.run(step_over(model, fits=6, log=sizes), SAMPLES, model)
    assert sizes == [6] * 4


def test_an_allocation_that_really_fails_is_survived():
    model = nn.Linear(6, 1).double()
    inputs, targets = data()

    def step(parts):
        for part in parts:
            (model(inputs[part]) - targets[part]).square().sum().backward()
            torch.empty(2**50 if part.stop - part.start > 5 else 1)

    planner = MicroBatchPlanner()
    planner.run(step, SAMPLES, model)
    assert planner.micro_batch_size == 3
    whole = copy.deepcopy(model)
    whole.zero_grad()
    (whole(inputs) - targets).square().sum().backward()
    torch.testing.assert_close(model.weight.grad, whole.weight.grad)


def test_what_the_failed_try_held_is_free_before_the_next():
    model, held, alive = nn.Linear(6, 1), [], []

    def step(parts):
        alive.append(sum(reference() is not None for reference in held))
        large = torch.ones(1000)
        held.append(weakref.ref(large.untyped_storage()))
        if len(parts) < 3:
            raise torch.OutOfMemoryError("planted")

    MicroBatchPlanner().run(step, 8, model)
    assert alive == [0, 0, 0]


def test_the_smallest_micro_batch_that_does_not_fit_raises_and_leaves_no_trace():
    model = noisy_model()
    model(data()[0]).sum().backward()
    before = [
        tensor.clone() for tensor in (*[p.grad for p in model.parameters()], *model.buffers())
    ]
    rng = torch.get_rng_state()
    planner = MicroBatchPlanner(min_samples=4)
    with pytest.raises(
        MemoryError, match=r"micro-batch of 4 does not fit.*min_samples is 4.*planted"
    ):
        planner.run(step_over(model, fits=3), SAMPLES, model)
    after = [*[p.grad for p in model.parameters()], *model.buffers()]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert torch.equal(torch.get_rng_state(), rng)


def test_other_errors_pass_through():
    def step(parts):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    planner = MicroBatchPlanner()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        planner.run(step, 8, nn.Linear(1, 1))
    assert planner.out_of_memory_events == 0


class Source:
    """Cuts its batches itself, as the per-sample source does."""

    def __init__(self, fits):
        self.chunk_size, self.fits, self.tried = None, fits, []

    def backward(self, parts):
        assert parts == [slice(0, 64)]
        self.tried.append(self.chunk_size)
        if self.chunk_size > self.fits:
            raise torch.OutOfMemoryError("planted")
        return "statistics"


def test_a_source_is_told_its_chunk_size():
    source, planner = Source(fits=7), MicroBatchPlanner(max_samples=20)
    result = planner.run(source.backward, 64, nn.Linear(1, 1), source=source)
    assert result == "statistics"
    assert source.tried == [20, 10, 5]


def mlp():
    return nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh())


def mlp_step(model, samples):
    inputs = torch.randn(samples, 64)

    def step(parts):
        for part in parts:
            (model(inputs[part]).square().sum() / samples).backward()

    return step


def peak_of(step, model, size):
    """Two micro-batches, the second of which meets the gradients of the first."""
    model.zero_grad()
    with PeakMemory() as memory:
        step([slice(0, size), slice(size, 2 * size)])
    model.zero_grad()
    return memory.peak_bytes


def test_a_probe_predicts_the_memory_and_leaves_no_trace():
    model = mlp()
    step = mlp_step(model, 1024)
    model(torch.randn(4, 64)).sum().backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    rng = torch.get_rng_state()
    planner = MicroBatchPlanner()
    memory = planner.probe(step, 1024, model)
    assert planner.memory == memory
    assert planner.micro_batch_size is None  # nothing bounds it
    for parameter, gradient in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert torch.equal(torch.get_rng_state(), rng)
    model.zero_grad()
    memory = MicroBatchPlanner().probe(step, 1024, model)
    assert memory.measured_samples == 1024
    for size in (400, 512):
        predicted = memory.fixed_bytes + memory.bytes_per_sample * size
        assert predicted == pytest.approx(peak_of(step, model, size), rel=0.05)


@pytest.mark.parametrize("wanted", [3, 40, 200])
def test_a_bound_in_bytes_gives_the_largest_micro_batch_below_it(wanted):
    model = mlp()
    step = mlp_step(model, 1024)
    bound = peak_of(step, model, wanted)
    planner = MicroBatchPlanner(max_bytes=bound)
    planner.run(step, 1024, model)  # probes by itself
    assert planner.micro_batch_size == pytest.approx(wanted, rel=0.05, abs=2)
    assert peak_of(step, model, planner.micro_batch_size) <= bound
    assert planner.plan(1024)[0] == planner.micro_batch_size


def test_a_run_probes_again_when_the_batch_has_outgrown_the_probe():
    model = mlp()
    bound = peak_of(mlp_step(model, 1024), model, 200)
    planner = MicroBatchPlanner(max_bytes=bound)
    measured = []
    for batch_size in (2, 8, 16, 64, 65, 256, 1024, 1024):
        model.zero_grad()
        planner.run(mlp_step(model, batch_size), batch_size, model)
        measured.append(planner.memory and planner.memory.measured_samples)
    assert measured == [2, 8, 16, 64, 64, 256, 256, 256]
    assert planner.micro_batch_size == pytest.approx(200, rel=0.05)
    assert peak_of(mlp_step(model, 1024), model, planner.micro_batch_size) <= bound


def test_the_chunks_of_per_sample_gradients_are_bounded():
    model = mlp()
    inputs, targets = torch.randn(300, 64), torch.randn(300, 128)
    source = PerSampleGradients(model, nn.functional.mse_loss)
    planner = MicroBatchPlanner(max_bytes=8 * 2**20)

    def step(parts):
        (part,) = parts
        return source.backward(inputs[part], targets[part])

    statistics = planner.run(step, len(inputs), model, source=source)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert statistics.batch_size == 300
    assert source.chunk_size == planner.micro_batch_size
    assert 8 < planner.micro_batch_size < 8 * 2**20 / (4 * parameters)
    model.zero_grad()
    with PeakMemory() as memory:
        again = source.backward(inputs, targets)
    assert 0.7 * planner.max_bytes < memory.peak_bytes <= planner.max_bytes
    assert again.sum_sq_norms == statistics.sum_sq_norms


def test_both_bounds_hold():
    model = mlp()
    step = mlp_step(model, 512)
    planner = MicroBatchPlanner(max_samples=50, max_bytes=peak_of(step, model, 200))
    planner.probe(step, 512, model)
    assert planner.micro_batch_size == 50
    assert planner.memory.measured_samples == 50


def test_a_bound_above_what_the_machine_has_is_lowered_by_the_probe():
    model = nn.Linear(6, 1).double()
    step = step_over(model, fits=5)
    planner = MicroBatchPlanner(max_bytes=2**40)
    planner.run(step, SAMPLES, model)
    assert planner.out_of_memory_events > 0
    assert planner.micro_batch_size <= 5
    whole = copy.deepcopy(model)
    step_over(whole, fits=SAMPLES)([slice(0, SAMPLES)])
    torch.testing.assert_close(model.weight.grad, whole.weight.grad)


def test_a_bound_too_small_for_the_smallest_micro_batch_says_the_bytes():
    model = mlp()
    planner = MicroBatchPlanner(max_bytes=10_000, min_samples=2)
    with pytest.raises(MemoryError, match=r"micro-batches of 2 need more than max_bytes=10,000"):
        planner.run(mlp_step(model, 64), 64, model)
    assert planner.state_dict() == MicroBatchPlanner().state_dict()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_saved_planner_cuts_as_before():
    model = noisy_model()
    planner = MicroBatchPlanner(min_samples=2)
    planner.run(step_over(model, fits=6), SAMPLES, model)
    planner.probe(step_over(model, fits=SAMPLES), SAMPLES, model)
    resumed = MicroBatchPlanner()
    resumed.load_state_dict(json.loads(json.dumps(planner.state_dict())))
    assert resumed.state_dict() == planner.state_dict()
    assert resumed.memory == planner.memory
    assert resumed.plan(20) == planner.plan(20) == [6, 6, 6, 2]
    capped, loose = MicroBatchPlanner(max_samples=4), MicroBatchPlanner(max_samples=9)
    capped.load_state_dict(planner.state_dict())
    loose.load_state_dict(planner.state_dict())
    assert (capped.micro_batch_size, loose.micro_batch_size) == (4, 6)
    capped.load_state_dict(MicroBatchPlanner().state_dict())
    assert capped.micro_batch_size == 4
    assert resumed.metrics() == {"batch/micro": 6.0, "out_of_memory_events": 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_batch_size": 1}, "saved micro_batch_size must be an integer of at least 2, got 1"),
        ({"out_of_memory_events": -1}, "at least 0, got -1"),
        ({"memory": [1.0]}, "saved memory"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    planner = MicroBatchPlanner(max_samples=4, min_samples=2)
    before = planner.state_dict()
    with pytest.raises(ValueError, match=message):
        planner.load_state_dict(before | change)
    with pytest.raises(ValueError, match="lacks memory, micro_batch_size, out_of_memory_events"):
        planner.load_state_dict({})
    assert planner.state_dict() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_samples": 0}, "max_samples must be an integer of at least 1, got 0"),
        ({"max_samples": 2, "min_samples": 4}, "max_samples must be an integer of at least 4"),
        ({"max_bytes": 0}, "max_bytes must be an integer of at least 1, got 0"),
        ({"min_samples": 0}, "min_samples must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments_say_what_is_accepted(options, message):
    with pytest.raises(ValueError, match=message):
        MicroBatchPlanner(**options)


def test_a_batch_too_small_to_probe_is_refused():
    model = mlp()
    with pytest.raises(
        ValueError, match=r"above min_samples=3, got batch_size=3 .*: probe a larger"
    ):
        MicroBatchPlanner(min_samples=3).probe(mlp_step(model, 3), 3, model)
