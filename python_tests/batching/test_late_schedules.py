"""Late switching, warm-up-stable-decay and one cycle, against their formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch.optim.lr_scheduler import LambdaLR

from adadagrad_kernels.batching import (
    BatchController,
    LateSwitchSchedule,
    OneCycleSchedule,
    SamplesLR,
    StepSchedule,
    WarmupStableDecay,
)


def sizes_of(schedule, samples, **options):
    """The sizes of a controller's steps until so many samples."""
    controller = BatchController(schedule, max_batch_size=10**6, **options)
    sizes = []
    while controller.samples_seen < samples:
        sizes.append(controller.batch_size)
        controller.step(controller.batch_size)
    return sizes


def test_the_late_switch_is_one_jump():
    schedule = LateSwitchSchedule(small=10, large=60, switch=800)
    assert sizes_of(schedule, 1_000) == [10] * 80 + [60] * 4
    assert schedule.rate_ends is None
    assert schedule.rate(10**9) == 1.0


@pytest.mark.parametrize(
    ("first", "last", "doublings"), [(16, 16, 0), (16, 17, 1), (16, 128, 3), (16, 129, 4)]
)
def test_the_stable_phase_has_equal_shares_for_every_doubling(first, last, doublings):
    schedule = WarmupStableDecay(first, last, samples=10_000, warmup=1_000, decay=3_000)
    for samples in range(0, 12_000, 7):
        k = 0
        while k < doublings and samples * doublings >= 1_000 * doublings + 6_000 * (k + 1):
            k += 1
        assert schedule(samples) == min(first * 2**k, last), samples
    assert schedule(6_999) < last or not doublings
    assert schedule(7_000) == last


def test_the_rate_warms_up_stays_and_decays_over_samples():
    schedule = WarmupStableDecay(20, 80, samples=10_000, warmup=1_000, decay=2_000)
    assert schedule.rate(0) == 0.02, "the first step is no step of length 0"
    assert [schedule.rate(n) for n in (480, 980, 4_321, 8_000)] == [0.5, 1.0, 1.0, 1.0]
    assert [schedule.rate(n) for n in (9_000, 9_900, 10_000, 20_000)] == [0.5, 0.05, 0.0, 0.0]
    assert WarmupStableDecay(20, 80, samples=100, warmup=0, decay=0).rate(99) == 1.0
    by_default = WarmupStableDecay(20, 80, samples=10_000)
    assert (by_default.rate(240), by_default.rate(9_000)) == (260 / 500, 0.5)


def test_torch_applies_the_rate_of_a_schedule():
    schedule = WarmupStableDecay(8, 32, samples=1_000, warmup=100, decay=300)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    rate = SamplesLR(LambdaLR(optimizer, schedule.rate), samples_per_step=1)
    controller = BatchController(schedule, max_batch_size=32)
    while controller.samples_seen < 1_000:
        expected = 0.5 * schedule.rate(controller.samples_seen)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected)
        samples = controller.batch_size
        optimizer.step()
        controller.step(samples)
        rate.step(samples)


def test_one_cycle_falls_and_rises_in_straight_lines():
    schedule = OneCycleSchedule(64, smallest=16, largest=256, samples=10_000, turn=0.25)
    for samples in range(0, 12_000, 7):
        down = 64 - 48 * samples / 2_500
        up = 16 + 240 * (min(samples, 10_000) - 2_500) / 7_500
        assert schedule(samples) == pytest.approx(down if samples <= 2_500 else up)
    sizes = sizes_of(schedule, 10_000, allow_shrink=True)
    assert (sizes[0], min(sizes), sizes.index(min(sizes)) > 1) == (64, 17, True)
    assert sizes == [
        *sorted(sizes[: sizes.index(17)], reverse=True),
        *sorted(sizes[sizes.index(17) :]),
    ]
    assert schedule.may_shrink
    assert not StepSchedule(8, step_size=4).may_shrink


def test_one_cycle_needs_a_controller_that_shrinks():
    schedule = OneCycleSchedule(64, smallest=16, largest=256, samples=1_000)
    with pytest.raises(ValueError, match=r"below the batch size 64: .* unless allow_shrink=True"):
        sizes_of(schedule, 1_000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LateSwitchSchedule(64, 32, switch=9), "large 32 is below small 64: give sizes in"),
        (lambda: LateSwitchSchedule(8, 32, switch=0), "switch must be an integer of at least 1"),
        (lambda: WarmupStableDecay(0, 8, samples=99), "first must be an integer of at least 1"),
        (lambda: WarmupStableDecay(8, 4, samples=99), "last 4 is below first 8"),
        (
            lambda: WarmupStableDecay(8, 16, samples=100, warmup=60, decay=40),
            "warm-up until 60 samples and a decay from 60 leave no stable phase of the 100: make",
        ),
        (lambda: WarmupStableDecay(8, 9, samples=99, decay=-1), "decay must be an integer of at"),
        (lambda: OneCycleSchedule(8, 16, 32, samples=99), "first 8 is below smallest 16"),
        (lambda: OneCycleSchedule(8, 4, 6, samples=99), "largest 6 is below first 8"),
        (lambda: OneCycleSchedule(8, 4, 16, samples=1), "samples must be an integer of at least 2"),
        (lambda: OneCycleSchedule(8, 4, 16, samples=9, turn=1.0), "turn must be a share above 0"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
