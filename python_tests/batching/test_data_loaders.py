"""The sampler inside DataLoader and StatefulDataLoader; each trap of a plain loader is a test."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from adadagrad_kernels.batching import AdaptiveBatchSampler, BatchController

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:.set_vital. is deprecated:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

SAMPLES = 200


def dataset(size=SAMPLES):
    return TensorDataset(torch.arange(size))


class Size:
    """A batch size that the loop changes."""

    def __init__(self, size):
        self.size = size

    def __call__(self):
        return self.size


def loader_of(sampler, workers=0, kind=DataLoader, **options):
    return kind(dataset(sampler.size), batch_sampler=sampler, num_workers=workers, **options)


def stateful():
    return pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader


@pytest.mark.parametrize("drop_last", [False, True])
def test_without_workers_a_size_counts_from_the_next_batch(drop_last):
    size = Size(4)
    sampler = AdaptiveBatchSampler(SAMPLES, size, drop_last=drop_last, shuffle=False)
    sizes, seen = [], []
    for step, (batch,) in enumerate(loader_of(sampler)):
        if step == 2:
            size.size = 16
        sizes.append(len(batch))
        seen += batch.tolist()
    # torch's BatchSampler with drop_last ignores the change until the next epoch.
    assert sizes[:3] == [4, 4, 4]
    assert set(sizes[3:-1]) == {16}
    assert seen == list(range(len(seen)))
    assert len(seen) == (12 + 11 * 16 if drop_last else SAMPLES)


def test_with_workers_a_size_arrives_late_by_the_batches_in_flight():
    size = Size(4)
    sampler = AdaptiveBatchSampler(SAMPLES, size)
    loader = loader_of(sampler, workers=2, prefetch_factor=2, persistent_workers=True)
    for _ in range(2):
        size.size, sizes, seen = 4, [], []
        for step, (batch,) in enumerate(loader):
            if step == 2:
                size.size = 16
            sizes.append(len(batch))
            seen += batch.tolist()
        assert sizes[: 3 + 4] == [4] * 7
        assert sizes[7:-1] == [16] * 10
        assert sorted(seen) == list(range(SAMPLES))
    assert sampler.epoch == 2


@pytest.mark.parametrize(("workers", "prefetch"), [(1, None), (1, 1), (2, 3), (3, 1)])
@pytest.mark.parametrize("step", [0, 4])
def test_exactly_as_many_batches_keep_the_old_size_as_are_in_flight(workers, prefetch, step):
    """num_workers * prefetch_factor of them, as the docs say; torch's default factor is 2."""
    size = Size(4)
    sampler = AdaptiveBatchSampler(SAMPLES, size, total_samples=SAMPLES)
    options = {} if prefetch is None else {"prefetch_factor": prefetch}
    sizes = []
    loader = loader_of(sampler, workers=workers, **options)
    for (batch,) in islice(loader, step + 20):
        sizes.append(len(batch))
        if len(sizes) == step + 1:
            size.size = 8
    late = workers * (prefetch or 2)
    assert sizes == [4] * (step + 1 + late) + [8] * (19 - late)


def test_the_loader_neither_lies_about_a_batch_size_nor_warns_about_its_length():
    loader = loader_of(AdaptiveBatchSampler(10, Size(4)))
    assert loader.batch_size is None
    assert len(loader) == len(list(loader)) == 3


def test_a_tail_of_one_sample_can_be_avoided():
    # BatchNorm fails on it, and it has no variance.
    sizes = [len(x) for (x,) in loader_of(AdaptiveBatchSampler(9, 4, min_samples=2))]
    assert sizes == [4, 5]


@pytest.mark.parametrize(
    ("workers", "stop"), [*((0, stop) for stop in range(1, 15)), (2, 6), (2, 12)]
)
def test_a_plain_loader_resumes_in_mid_epoch_batch_for_batch(workers, stop):
    """The run with a checkpoint makes exactly the batches of the run without."""

    def fresh():
        controller = BatchController(None, batch_size=4, max_batch_size=64)
        sampler = AdaptiveBatchSampler(120, controller, seed=8)
        return controller, sampler

    def train(controller, sampler, steps):
        batches = []
        while len(batches) < steps:
            for (batch,) in loader_of(sampler, workers):
                batches.append(batch.tolist())
                controller.step(len(batch))
                # A decision that depends on nothing but the step, as a test's would on the data.
                controller.batch_size = 4 + controller.steps
                if len(batches) == steps:
                    break
        return batches

    uninterrupted = train(*fresh(), steps=15)
    controller, sampler = fresh()
    first = train(controller, sampler, steps=stop)
    checkpoint = json.dumps(
        [controller.state_dict(), sampler.state_dict(consumed=controller.samples_seen)]
    )
    controller, sampler = fresh()
    saved_controller, saved_sampler = json.loads(checkpoint)
    controller.load_state_dict(saved_controller)
    sampler.load_state_dict(saved_sampler)
    second = train(controller, sampler, steps=15 - stop)
    assert first + second == uninterrupted


def test_a_loop_broken_off_gets_its_batches_in_flight_back():
    sampler = AdaptiveBatchSampler(60, 4, seed=1)
    seen = []
    for (batch,) in loader_of(sampler, workers=2):
        seen += batch.tolist()
        if len(seen) == 12:
            break
    assert sampler.drawn > 12
    sampler.rewind(12)
    seen += [int(x) for (batch,) in loader_of(sampler) for x in batch]
    assert sorted(seen) == list(range(60))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [1, 7, None], ids=["first", "middle", "end"])
def test_stateful_loader_resumes_without_repeating_or_missing(workers, stop):
    # torch's own BatchSampler, its size changed, repeats 30 or misses 36 of 120 here.
    kind, size = stateful(), Size(4)
    loader = loader_of(AdaptiveBatchSampler(120, size, seed=4), workers, kind)
    seen = []
    for step, (batch,) in enumerate(loader, start=1):
        seen += batch.tolist()
        if step == 2:
            size.size = 10
        if step == stop:
            break
    state = loader.state_dict()
    del loader

    size = Size(7)
    resumed = loader_of(AdaptiveBatchSampler(120, size, seed=4), workers, kind)
    resumed.load_state_dict(state)
    rest = [int(x) for (batch,) in resumed for x in batch]
    order = AdaptiveBatchSampler(120, 120, seed=4)
    expected = next(iter(order))
    if stop is None:  # the epoch was over: the next iteration is the next epoch
        order.set_epoch(1)
        assert seen == expected
        assert rest == next(iter(order))
    else:
        assert seen + rest == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_stateful_loader_resumes_under_a_budget(workers):
    kind = stateful()

    def fresh():
        sampler = AdaptiveBatchSampler(30, 8, seed=4, total_samples=100)
        return loader_of(sampler, workers, kind)

    expected = [batch.tolist() for (batch,) in fresh()]
    assert sum(map(len, expected)) == 100
    loader = fresh()
    iterator = iter(loader)
    first = [next(iterator)[0].tolist() for _ in range(5)]
    resumed = fresh()
    resumed.load_state_dict(loader.state_dict())
    assert first + [batch.tolist() for (batch,) in resumed] == expected
