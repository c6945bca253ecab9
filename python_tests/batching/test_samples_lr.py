"""Schedules in samples against the same schedule run in steps of a fixed batch."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from adadagrad_kernels.batching import SamplesLR

UNIT = 10
UNITS = 60

SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda unit: 1 / (1 + unit)),
    "step": lambda o: lr_scheduler.StepLR(o, 7, 0.5),
    "multistep": lambda o: lr_scheduler.MultiStepLR(o, [3, 20], 0.1),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, UNITS),
    "one_cycle": lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=UNITS + 1),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.1, 1.0, step_size_up=5),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 9),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o,
        [
            lr_scheduler.LinearLR(o, 0.1, 1.0, total_iters=10),
            lr_scheduler.CosineAnnealingLR(o, 50),
        ],
        milestones=[10],
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.95)], optimizer=o
    ),
}


def optimizer():
    parameters = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 0.3}]
    return torch.optim.SGD(groups, lr=1.0, momentum=0.9)


def reference(kind):
    """Learning rates and momentum after 0, 1, 2, ... steps at the fixed batch."""
    inner_optimizer = optimizer()
    scheduler = SCHEDULERS[kind](inner_optimizer)
    rows = [settings_of(inner_optimizer)]
    for _ in range(UNITS):
        inner_optimizer.step()
        scheduler.step()
        rows.append(settings_of(inner_optimizer))
    return rows


def settings_of(inner_optimizer):
    return [group[key] for group in inner_optimizer.param_groups for key in ("lr", "momentum")]


REFERENCE = {kind: reference(kind) for kind in SCHEDULERS}


@pytest.mark.parametrize("kind", SCHEDULERS)
@settings(deadline=None, max_examples=25)
@given(batches=st.lists(st.integers(1, 150), min_size=1, max_size=40), split=st.integers(0, 40))
def test_any_batches_follow_the_schedule_of_a_fixed_one(kind, batches, split):
    schedule = SamplesLR(SCHEDULERS[kind](optimizer()), UNIT)
    seen = 0
    for number, batch in enumerate(batches):
        if seen + batch > UNIT * UNITS:
            break
        if number == split:  # stop and resume, the optimizer's state included
            resumed = SamplesLR(SCHEDULERS[kind](optimizer()), UNIT)
            resumed.optimizer.load_state_dict(schedule.optimizer.state_dict())
            resumed.load_state_dict(schedule.state_dict())
            schedule = resumed
        schedule.optimizer.step()
        schedule.step(batch)
        seen += batch
        assert (schedule.samples_seen, schedule.units) == (seen, seen // UNIT)
        now = settings_of(schedule.optimizer)
        assert now == pytest.approx(REFERENCE[kind][seen // UNIT], rel=1e-12)
        assert schedule.get_last_lr() == now[0::2]


def test_a_jump_leaves_the_inner_state_of_single_steps():
    for kind in ("lambda", "one_cycle"):
        jumped, stepped = (SCHEDULERS[kind](optimizer()) for _ in range(2))
        schedule = SamplesLR(jumped, UNIT)
        schedule.optimizer.step()
        schedule.step(UNIT * 23)
        stepped.optimizer.step()
        for _ in range(23):
            stepped.step()
        ours, theirs = jumped.state_dict(), stepped.state_dict()
        assert ours.keys() == theirs.keys()
        for key in ("last_epoch", "_step_count", "_last_lr"):
            assert ours[key] == theirs[key]


def test_a_jump_over_many_units_asks_the_schedule_once():
    asked = []

    def rule(unit):
        asked.append(unit)
        return 1.0

    inner_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = SamplesLR(lr_scheduler.LambdaLR(inner_optimizer, rule), 1)
    inner_optimizer.step()
    schedule.step(60_000)
    assert asked == [0, 60_000]


def test_a_batch_below_the_unit_moves_nothing_until_the_unit_is_full():
    schedule = SamplesLR(SCHEDULERS["exponential"](optimizer()), UNIT)
    rates = []
    for _ in range(5):
        schedule.optimizer.step()
        schedule.step(4)
        rates.append(round(math.log(schedule.get_last_lr()[0], 0.9)))
    assert rates == [0, 0, 1, 1, 2]


def test_plateau_sees_one_observation_per_call_that_fills_a_unit():
    def plateau():
        inner_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return lr_scheduler.ReduceLROnPlateau(inner_optimizer, patience=1, factor=0.5)

    by_steps = plateau()
    schedule = SamplesLR(plateau(), UNIT)
    for metric in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0):
        by_steps.step(metric)
        schedule.step(UNIT // 2, 99.0)  # half a unit: not looked at
        schedule.step(UNIT // 2, metric)
        assert schedule.get_last_lr() == by_steps.get_last_lr()
    assert schedule.get_last_lr() == [0.25]
    schedule.step(50 * UNIT, 0.5)  # an improvement is none the less one for its size
    assert schedule.get_last_lr() == [0.25]
    assert schedule.units == 57


def test_metrics_are_for_plateau_only():
    schedule = SamplesLR(SCHEDULERS["step"](optimizer()), UNIT)
    with pytest.raises(ValueError, match="StepLR takes no metric"):
        schedule.step(UNIT, 1.0)
    plateau = SamplesLR(lr_scheduler.ReduceLROnPlateau(optimizer()), UNIT)
    with pytest.raises(
        ValueError,
        match="ReduceLROnPlateau reads a metric, got none: call step",
    ):
        plateau.step(UNIT)
    with pytest.raises(ValueError, match="samples must be an integer of at least 1, got 0"):
        schedule.step(0)
    assert schedule.samples_seen == plateau.samples_seen == 0


def test_a_tensor_learning_rate_is_changed_in_place():
    rate = torch.tensor(1.0)
    inner_optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    schedule = SamplesLR(lr_scheduler.ExponentialLR(inner_optimizer, 0.5), UNIT)
    inner_optimizer.step()
    schedule.step(3 * UNIT)
    assert inner_optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.125


def test_the_state_is_json_where_the_inner_one_is():
    schedule = SamplesLR(SCHEDULERS["cosine"](optimizer()), UNIT)
    schedule.optimizer.step()
    schedule.step(25)
    state = json.loads(json.dumps(schedule.state_dict()))
    resumed = SamplesLR(SCHEDULERS["cosine"](optimizer()), UNIT)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == schedule.state_dict()
    assert resumed.get_last_lr() == schedule.get_last_lr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_per_step": 5}, "samples_per_step=5.*samples_per_step=10"),
        ({"scheduler_type": "StepLR"}, "'StepLR'.*'ExponentialLR'"),
        ({"units": -1}, "saved units must be an integer of at least 0, got -1"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    schedule = SamplesLR(SCHEDULERS["exponential"](optimizer()), UNIT)
    before = schedule.state_dict()
    with pytest.raises(ValueError, match=message):
        schedule.load_state_dict(before | change)
    with pytest.raises(ValueError, match="lacks samples_per_step, samples_seen"):
        schedule.load_state_dict({"units": 1})
    assert schedule.state_dict() == before


@pytest.mark.parametrize("unit", [0, 2.5, None])
def test_the_unit_is_a_positive_integer(unit):
    with pytest.raises(ValueError, match="samples_per_step must be an integer of at least 1"):
        SamplesLR(SCHEDULERS["step"](optimizer()), unit)


def test_the_last_batch_crosses_the_end_of_a_cycle() -> None:
    """OneCycleLR refuses more steps than it was made for; its last rate is kept."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1, momentum=0.9)
    inner = lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=10)
    schedule = SamplesLR(inner, samples_per_step=10)
    for samples in (30, 30, 30, 30, 5000):
        optimizer.step()
        schedule.step(samples)
    assert (schedule.samples_seen, schedule.units) == (5120, 512)
    assert schedule.get_last_lr() == pytest.approx([1.0 / 25 / 1e4], rel=1e-6)


def test_an_error_of_the_scheduler_leaves_the_counts() -> None:
    class Ends(lr_scheduler.LRScheduler):
        def get_lr(self) -> list[float]:
            if self.last_epoch > 3:
                raise ValueError("no more steps")
            return [0.1 for _ in self.base_lrs]

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = SamplesLR(Ends(optimizer), samples_per_step=10)
    optimizer.step()
    schedule.step(30)
    with pytest.raises(ValueError, match="no more steps"):
        schedule.step(20)
    assert (schedule.samples_seen, schedule.units) == (30, 3)
    assert schedule.scheduler.last_epoch == 3
