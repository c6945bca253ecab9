"""The sampler against sets, and against a simulation that cuts lists."""

from __future__ import annotations

import collections
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adadagrad_kernels.batching import AdaptiveBatchSampler
from adadagrad_kernels.batching.permutation import epoch_permutation

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=8)


def cycling(sizes):
    """A batch-size source that asks for the given sizes one after the other, forever."""
    return itertools.cycle(sizes).__next__


def drawn_by(sampler):
    """One iteration; unlike list(sampler) it does not ask for the length first."""
    return list(iter(sampler))


def flat(batches):
    return [index for batch in batches for index in batch]


def cut(length, sizes, *, drop_last=False, fewest=1):
    """Batch lengths by counting one sample at a time: the oracle."""
    lengths, left = [], length
    while left >= fewest:
        size = min(sizes(), length)
        if size > left and drop_last:
            break
        taken = 0
        while taken < size and left:
            taken, left = taken + 1, left - 1
        if left < fewest and not drop_last:
            taken, left = taken + left, 0
        lengths.append(taken)
    return lengths


@settings(deadline=None)
@given(st.integers(1, 60), SIZES, st.integers(0, 2**64 - 1), st.booleans())
def test_an_epoch_draws_every_sample_once_whatever_the_sizes(size, sizes, seed, drop_last):
    sizes, asked = cycling(sizes), cycling(sizes)
    sampler = AdaptiveBatchSampler(size, sizes, seed=seed, drop_last=drop_last)
    one_by_one = AdaptiveBatchSampler(size, 1, seed=seed)
    for epoch in range(3):
        assert (sampler.epoch, sampler.position) == (epoch, 0)
        batches = drawn_by(sampler)
        lengths = cut(size, asked, drop_last=drop_last)
        assert [len(batch) for batch in batches] == lengths
        order = flat(one_by_one)
        assert sorted(order) == list(range(size))
        assert flat(batches) == order[: sum(lengths)]
        if not drop_last:
            assert sum(lengths) == size


@settings(deadline=None)
@given(st.integers(1, 30), SIZES, st.integers(1, 150))
def test_a_budget_crosses_epochs_and_ends_exactly(size, sizes, total):
    sampler = AdaptiveBatchSampler(size, cycling(sizes), seed=3, total_samples=total)
    batches = drawn_by(sampler)
    assert [len(batch) for batch in batches] == cut(total, cycling(sizes))
    epochs = AdaptiveBatchSampler(size, 7, seed=3)
    expected = flat(flat(epochs) for _ in range(total // size + 1))
    assert flat(batches) == expected[:total]
    assert list(sampler) == []  # the budget is spent


@settings(deadline=None)
@given(st.integers(1, 30), SIZES, SIZES, st.integers(0, 40), st.integers(0, 100), st.booleans())
def test_resume_at_any_batch_with_other_sizes(size, before, after, batches, budget, budgeted):
    total = budget + 1 if budgeted else None
    whole = AdaptiveBatchSampler(size, 1, seed=9, total_samples=total)
    epochs = 1 if budgeted else 4
    expected = flat(flat(whole) for _ in range(epochs))

    first = AdaptiveBatchSampler(size, cycling(before), seed=9, total_samples=total)
    seen, iterator = [], iter(first)
    for _ in range(batches):
        batch = next(iterator, None)
        if batch is None and budgeted:
            break
        if batch is None:
            iterator = iter(first)
        else:
            seen += batch
    state = json.loads(json.dumps(first.state_dict()))
    second = AdaptiveBatchSampler(size, cycling(after), seed=9, total_samples=total)
    second.load_state_dict(state)
    rest = flat(flat(second) for _ in range(50))
    joined = seen + rest
    length = min(len(expected), len(joined))
    assert joined[:length] == expected[:length]
    assert len(joined) == len(expected) if budgeted else len(joined) >= 40 * size


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 50), SIZES, st.booleans())
def test_ranks_share_each_batch_and_count_alike(world, fewest, extra, sizes, budgeted):
    floor = world * fewest
    sizes = [size + floor for size in sizes]
    size = floor + extra
    options = {"seed": 5, "world_size": world, "min_samples": fewest}
    options["total_samples"] = 3 * size if budgeted else None
    ranks = [
        drawn_by(AdaptiveBatchSampler(size, cycling(sizes), rank=rank, **options))
        for rank in range(world)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    drawn = []
    for shares in zip(*ranks, strict=True):
        lengths = [len(share) for share in shares]
        assert min(lengths) >= fewest
        assert max(lengths) - min(lengths) <= 1
        joined = [shares[i % world][i // world] for i in range(sum(lengths))]
        drawn.append(joined)
    length = 3 * size if budgeted else size
    assert [len(batch) for batch in drawn] == cut(length, cycling(sizes), fewest=floor)
    alone = AdaptiveBatchSampler(size, 4, seed=5, total_samples=options["total_samples"])
    assert flat(drawn) == flat(alone)


@settings(deadline=None)
@given(st.integers(1, 40), SIZES, st.integers(0, 12), st.integers(0, 12), st.booleans())
def test_a_checkpoint_behind_the_drawn_batches_cuts_them_again(
    size, sizes, consumed, ahead, budgeted
):
    total = 5 * size if budgeted else None
    source = cycling(sizes)
    sampler = AdaptiveBatchSampler(size, source, seed=2, total_samples=total)
    batches, samples = [], []
    iterator = iter(sampler)
    for _ in range(consumed + ahead):
        batch = next(iterator, None)
        if batch is None:
            break
        batches.append(batch)
        samples.append(sampler.drawn)
    done = min(consumed, len(batches))
    state = json.loads(json.dumps(sampler.state_dict(samples[done - 1] if done else 0)))
    resumed = AdaptiveBatchSampler(size, source, seed=2, total_samples=total)
    resumed.load_state_dict(state)
    again = list(itertools.islice(resumed, len(batches) - done))
    assert again == batches[done:]
    assert resumed.drawn == sampler.drawn


def test_consumed_may_lie_before_the_end_of_the_epoch_that_is_drawn():
    sampler = AdaptiveBatchSampler(10, 4, shuffle=False)
    assert len(list(sampler)) == 3
    assert sampler.state_dict()["epoch"] == 1
    state = sampler.state_dict(consumed=4)
    assert (state["epoch"], state["position"], state["pending"]) == (0, 4, [4, 2])
    sampler.rewind(4)
    assert list(sampler) == [[4, 5, 6, 7], [8, 9]]
    assert sampler.epoch == 1


def test_a_second_checkpoint_keeps_what_the_first_one_had_in_flight():
    sampler = AdaptiveBatchSampler(40, cycling([3, 4, 5, 6, 7]), seed=1)
    batches = list(itertools.islice(sampler, 4))
    resumed = AdaptiveBatchSampler(40, 9, seed=1)
    resumed.load_state_dict(sampler.state_dict(consumed=3))
    assert next(iter(resumed)) == batches[1]
    again = AdaptiveBatchSampler(40, 9, seed=1)
    again.load_state_dict(resumed.state_dict())
    assert list(itertools.islice(again, 2)) == batches[2:]


@pytest.mark.parametrize("consumed", [3, 11])
def test_consumed_between_two_batches_or_beyond_says_where_the_borders_are(consumed):
    sampler = AdaptiveBatchSampler(20, 4)
    batches = iter(sampler)
    next(batches), next(batches)
    with pytest.raises(ValueError, match=f"consumed={consumed} is no border.*8 samples were drawn"):
        sampler.state_dict(consumed=consumed)


def test_the_permutation_is_the_order_of_philox_numbers():
    raw = np.random.Philox(key=7 + (3 << 64)).random_raw(11)
    # The four highest bits make room for the index.
    expected = sorted(range(11), key=lambda index: int(raw[index]) % 2**60)
    sampler = AdaptiveBatchSampler(11, 11, seed=7)
    sampler.set_epoch(3)
    assert flat(sampler) == expected


def test_all_orders_are_equally_likely():
    counts = collections.Counter(
        tuple(epoch_permutation(4, seed, epoch).tolist())
        for seed in range(800)
        for epoch in range(6)
    )
    assert len(counts) == 24
    # Chi-squared with 23 degrees of freedom: above 49.7 once in a thousand.
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 49.7


def test_seed_and_epoch_are_not_added():
    orders = set()
    for seed in range(3):
        sampler = AdaptiveBatchSampler(50, 50, seed=seed)
        orders |= {tuple(flat(sampler)) for _ in range(3)}
    assert len(orders) == 9


def test_set_epoch_keeps_the_place_within_the_epoch_and_jumps_otherwise():
    sampler = AdaptiveBatchSampler(10, 4, shuffle=False)
    next(iter(sampler))
    sampler.set_epoch(0)
    assert sampler.position == 4
    assert flat(sampler) == list(range(4, 10))
    sampler.set_epoch(1)  # already there
    assert sampler.epoch == 1
    next(iter(sampler))
    sampler.set_epoch(5)
    assert (sampler.epoch, sampler.position) == (5, 0)


def test_set_epoch_changes_nothing_under_a_budget():
    sampler = AdaptiveBatchSampler(10, 4, total_samples=25)
    next(iter(sampler))
    sampler.set_epoch(3)
    assert (sampler.epoch, sampler.position) == (0, 4)


def test_a_changed_number_resumes_across_world_sizes():
    two = [AdaptiveBatchSampler(23, 6, seed=1, rank=rank, world_size=2) for rank in range(2)]
    iterators = [iter(sampler) for sampler in two]
    seen = []
    for _ in range(2):
        seen += flat(next(iterator) for iterator in iterators)
    states = [sampler.state_dict() for sampler in two]
    assert states[0] == states[1]  # one rank's checkpoint serves all
    rest = []
    for rank in range(3):
        sampler = AdaptiveBatchSampler(23, 6, seed=1, rank=rank, world_size=3)
        sampler.load_state_dict(states[0])
        rest += flat(sampler)
    assert sorted(seen + rest) == list(range(23))


def test_a_resume_on_more_ranks_than_samples_left_says_what_it_leaves_out(caplog):
    one = AdaptiveBatchSampler(9, 4)
    batches = iter(one)
    next(batches), next(batches)
    many = AdaptiveBatchSampler(9, 4, rank=1, world_size=4)
    many.load_state_dict(one.state_dict())
    assert list(many) == []
    assert "left out 1 samples, too few for 4 ranks" in caplog.text
    assert many.epoch == 1


@pytest.mark.parametrize("drop_last", [False, True])
def test_length_counts_the_batches_of_a_fixed_size(drop_last):
    for size, batch, floor in itertools.product(range(2, 15), range(2, 9), (1, 2)):
        options = {"drop_last": drop_last, "min_samples": floor}
        sampler = AdaptiveBatchSampler(size, batch, **options)
        announced = len(sampler)
        iterator = iter(sampler)
        assert announced == sum(1 for _ in iterator)
        budget = AdaptiveBatchSampler(size, batch, total_samples=3 * size, **options)
        announced, iterator = len(budget), iter(budget)
        next(iterator)
        assert len(budget) == announced - 1
        assert announced - 1 == sum(1 for _ in iterator)


def test_a_batch_above_the_dataset_is_the_dataset_even_if_short_ones_are_dropped():
    assert [len(b) for b in AdaptiveBatchSampler(10, 16, drop_last=True)] == [10]


def test_there_is_no_batch_size_to_shard_by():
    assert not hasattr(AdaptiveBatchSampler(10, 2), "batch_size")


def test_a_large_permutation_is_vectorised_and_complete():
    sampler = AdaptiveBatchSampler(1_000_000, 60_000, seed=1)
    seen = np.zeros(1_000_000, dtype=bool)
    for batch in sampler:
        seen[batch] = True
    assert seen.all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, 4), {}, "dataset_or_size.*at least 1, got 0"),
        (([], 4), {}, "dataset has 0 samples; accepted is at least one"),
        ((iter([1]), 4), {}, "dataset_or_size"),
        ((10, 0), {}, "batch_size must be an integer of at least 1, got 0"),
        ((10, 2.5), {}, "batch_size must be an integer of at least 1, got 2.5"),
        ((10, 2), {"world_size": 4}, "batch_size is 2, too few for 1 on each of 4 ranks"),
        ((10, 4), {"rank": 2, "world_size": 2}, "rank must be below world_size 2, got 2"),
        ((3, 4), {"world_size": 4}, "dataset of 3 samples cannot give 4 ranks 1 each"),
        ((10, 4), {"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ((10, 4), {"seed": 2**64}, r"seed must be below 2\*\*64"),
        ((10, 4), {"total_samples": 0}, "total_samples must be an integer of at least 1, got 0"),
        ((10, True), {}, "batch_size must be an integer of at least 1, got True"),
    ],
)
def test_bad_arguments_say_what_is_accepted(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveBatchSampler(*arguments, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed=1.*seed=0"),
        ({"size": 11}, "size=11.*size=10"),
        ({"shuffle": False}, "shuffle=False.*shuffle=True"),
        ({"position": 11}, "position 11 is beyond the dataset's 10"),
        ({"drawn": 41}, "41 samples, more than total_samples 40"),
        ({"epoch": -1}, "saved epoch must be an integer of at least 0, got -1"),
        ({"pending": [4, 0]}, "saved pending must be an integer of at least 1, got 0"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    sampler = AdaptiveBatchSampler(10, 4, total_samples=40)
    next(iter(sampler))
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=message):
        sampler.load_state_dict(before | change)
    with pytest.raises(ValueError, match="lacks position"):
        sampler.load_state_dict({k: v for k, v in before.items() if k != "position"})
    assert sampler.state_dict() == before


def test_the_next_total_is_that_of_the_batch_which_is_trained_on():
    sizes = iter([4, 6, 5, 5])
    sampler = AdaptiveBatchSampler(20, lambda: next(sizes), rank=1, world_size=2)
    drawn = iter(sampler)
    with pytest.raises(ValueError, match="no batch that was drawn begins after consumed=0"):
        sampler.next_total(0)
    for consumed, total in ((0, 4), (4, 6)):
        assert len(next(drawn)) == total // 2
        assert sampler.next_total(consumed) == total
    # One batch ahead, as a loader with workers is.
    next(drawn)
    assert sampler.next_total(4) == 6
    with pytest.raises(ValueError, match="consumed=7"):
        sampler.next_total(7)
