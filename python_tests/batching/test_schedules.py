"""Sizes that are a function of the samples seen, each against its formula written out again."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from adadagrad_kernels.batching import (
    BatchController,
    CosineSchedule,
    LinearSchedule,
    MilestoneSchedule,
    PlateauSchedule,
    Schedule,
    StepSchedule,
    megatron_rampup,
    megatron_schedule,
)


def sizes_of(controller, steps):
    return [controller.step(controller.batch_size) for _ in range(steps)]


def test_doubling_after_equal_numbers_of_samples():
    schedule = StepSchedule(100, step_size=1000, last=800)
    for samples in range(0, 6000, 7):
        expected = 100
        for _ in range(samples // 1000):
            expected = min(800, 2 * expected)
        assert schedule(samples) == expected


def test_the_power_of_a_factor_is_rounded_down_once():
    """Rounded at every step, 8 times 1.1 would stay 8 for ever."""
    assert StepSchedule(8, step_size=10, gamma=1.1)(20) == 9
    schedule = StepSchedule(100, step_size=10, gamma=1.5)
    assert [schedule(10 * k) for k in range(4)] == [100, 150, 225, 337]
    assert schedule(10**12) == 2**53


@pytest.mark.parametrize("samples", [0, 1, 250, 500, 999, 1000, 10**9])
def test_lines_and_waves(samples):
    share = min(1.0, samples / 1000)
    assert LinearSchedule(64, 512, 1000)(samples) == pytest.approx(64 + 448 * share)
    wave = 64 + 448 * math.sin(math.pi / 2 * share) ** 2
    assert CosineSchedule(64, 512, 1000)(samples) == pytest.approx(wave)


def test_any_function_drives_a_controller():
    schedule = Schedule(lambda samples: 10 + samples // 50, name="my own")
    controller = BatchController(schedule, max_batch_size=16, round_to=2)
    assert controller.batch_size == 10
    assert not controller.wants_test()
    seen = 0
    for _ in range(60):
        seen += controller.batch_size
        size = controller.step(controller.batch_size)
        exact = min(16, 10 + seen // 50)
        assert size == exact + exact % 2
    assert controller.samples_seen == seen


def test_a_tail_counts_its_own_samples():
    controller = BatchController(StepSchedule(8, step_size=20), max_batch_size=64)
    assert [controller.step(samples) for samples in (8, 3, 8, 1)] == [8, 8, 8, 16]


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("0:768 250B:1536", 1, {0: 768, 250 * 10**9: 1536}),
        ("0:8 1.5K:16 2M:32 1T:64", 1, {0: 8, 1500: 16, 2 * 10**6: 32, 10**12: 64}),
        ("0:8 1000:16", 300, {0: 8, 4: 16}),  # the fourth sample ends with token 1,200
    ],
)
def test_megatrons_steps(text, tokens, expected):
    schedule = megatron_schedule(text, tokens_per_sample=tokens)
    assert dict(schedule.milestones) == expected
    for samples, size in expected.items():
        assert schedule(samples) == size


def test_megatrons_ramp_is_its_calculator_written_out():
    start, increment, samples, target = 32, 32, 65_536, 192
    schedule = megatron_rampup(start, increment, samples, target)
    per_increment = samples / ((target - start) / increment)
    for seen in range(0, 70_000, 501):
        steps = int(seen / per_increment)
        assert schedule(seen) == min(target, start + steps * increment)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: megatron_schedule("0:8 fast:16"), "'fast:16' .* is not accepted: write FROM:SIZE"),
        (lambda: megatron_schedule("0:8 1K:16 1K:32"), "'1K:32' .* does not begin after"),
        (lambda: megatron_schedule("0:8 1K:4"), "'1K:4' .* is smaller than the one before"),
        (
            lambda: megatron_schedule("1K:8"),
            "must give the size at 0 samples, but these begin at 1,000: add 0",
        ),
        (
            lambda: megatron_schedule(""),
            "must give the size at 0 samples, but these are empty: add 0",
        ),
        (lambda: megatron_schedule("0:0"), "at least 1, got 0"),
        (lambda: megatron_rampup(16, 7, 100, 32), "nearest targets: 30 or 37"),
        (lambda: megatron_rampup(16, 8, 1, 32), "2 increments do not fit into samples=1"),
        (lambda: MilestoneSchedule({0: 16, 100: 8}), "at 100 samples, 8, is below 16 before it"),
        (
            lambda: MilestoneSchedule({5: 16}),
            "must give the size at 0 samples, but these begin at 5",
        ),
        (lambda: MilestoneSchedule({"0": 16}), "a milestone must be an integer .* got '0'"),
        (lambda: StepSchedule(8, step_size=0), "step_size must be an integer of at least 1"),
        (lambda: StepSchedule(8, step_size=5, gamma=0.5), "gamma .* above 1, got 0.5"),
        (lambda: StepSchedule(8, step_size=5, last=4), "last must be an integer of at least 8"),
        (lambda: LinearSchedule(8, 4, 100), "end 4 is below start 8"),
        (lambda: CosineSchedule(8, 16, 0), "samples must be an integer of at least 1"),
        (lambda: PlateauSchedule(8, factor=1.0), "factor .* above 1, got 1.0"),
        (lambda: PlateauSchedule(8, mode="least"), "mode must be one of 'min', 'max'"),
        (lambda: PlateauSchedule(8, threshold=-1.0), "threshold must be a finite number"),
    ],
)
def test_what_cannot_be_a_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (
            MilestoneSchedule({0: 16, 100: 24}),
            {"round_to": 16},
            "size at 100 samples, 24 is not a multiple of round_to 16; nearest: 16 or 32",
        ),
        (StepSchedule(16, step_size=5), {"batch_size": 8}, "is not the schedule's first size, 16"),
        (StepSchedule(128, step_size=5), {}, "batch_size 128 is above max_batch_size 64"),
        (Schedule(lambda samples: math.nan), {}, "gave nan at 0 samples"),
        (None, {}, "batch_size is missing"),
    ],
)
def test_what_does_not_fit_the_controller_is_refused(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        BatchController(schedule, max_batch_size=64, **options)


def test_a_schedule_that_shrinks_is_refused_at_the_step_and_nothing_moves():
    falling = Schedule(lambda samples: 32 if samples < 100 else 8)
    controller = BatchController(falling, max_batch_size=64)
    assert sizes_of(controller, 3) == [32, 32, 32]
    with pytest.raises(ValueError, match="gave 8 at 128 samples, below the batch size 32"):
        controller.step(32)
    assert (controller.steps, controller.samples_seen, controller.batch_size) == (3, 96, 32)
    allowed = BatchController(
        Schedule(lambda samples: 32 if samples else 8), max_batch_size=64, allow_shrink=True
    )
    assert sizes_of(allowed, 2) == [32, 32]


def test_a_function_may_shrink_where_it_is_allowed():
    falling = Schedule(lambda samples: max(8, 64 - samples))
    controller = BatchController(falling, max_batch_size=64, allow_shrink=True, round_to=2)
    assert [controller.step(16) for _ in range(5)] == [48, 32, 16, 8, 8]
    resumed = BatchController(falling, max_batch_size=64, allow_shrink=True, round_to=2)
    resumed.load_state_dict(controller.state_dict())
    assert resumed.batch_size == 8


def test_rounding_errors_add_no_multiple():
    assert StepSchedule(100, step_size=1, gamma=1.15)(1) == 115
    line = BatchController(LinearSchedule(192, 3392, 60_000), max_batch_size=4096, round_to=64)
    assert line.step(33_600) == 1984


def test_hysteresis_is_not_for_schedules():
    schedule = MilestoneSchedule({0: 256, 1000: 300})
    controller = BatchController(schedule, max_batch_size=512, hysteresis=1.5)
    assert controller.step(1000) == 300


def test_plateaus_at_the_cap_change_nothing():
    schedule = PlateauSchedule(64, patience=0)
    controller = BatchController(schedule, max_batch_size=128)
    for _ in range(2000):
        schedule.observe(1.0)
        controller.step(64)
    assert schedule.size == 128
    for _ in range(2000):
        schedule.observe(1.0)
    assert controller.step(64) == 128


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateaus_are_those_of_torch(mode, threshold_mode):
    """A rate that torch divides by two is a batch that doubles, at the same evaluations."""
    settings = {
        "mode": mode,
        "threshold_mode": threshold_mode,
        "threshold": 0.05,
        "patience": 2,
        "cooldown": 3,
    }
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, eps=0.0, **settings)
    schedule = PlateauSchedule(1, factor=2.0, **settings)
    generator = torch.Generator().manual_seed(1)
    metrics = (1.0 + 0.2 * torch.randn(200, generator=generator)).tolist()
    for metric in [*metrics, math.nan, 0.1]:
        scheduler.step(metric)
        schedule.observe(metric)
        assert schedule(0) == 1.0 / optimizer.param_groups[0]["lr"]
    assert schedule.size > 2**10


def test_a_plateau_resumes_with_its_controller():
    def fresh():
        return BatchController(PlateauSchedule(8, patience=0), max_batch_size=1024)

    controller = fresh()
    for metric in (1.0, 1.0):
        controller.criterion.observe(metric)
        controller.step(controller.batch_size)
    assert controller.batch_size == 16
    resumed = fresh()
    resumed.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    for each in (controller, resumed):
        each.criterion.observe(1.0)
        assert each.step(16) == 32
    other = BatchController(PlateauSchedule(8, patience=1), max_batch_size=1024)
    with pytest.raises(ValueError, match="patience"):
        other.load_state_dict(controller.state_dict())
    assert other.steps == 0
