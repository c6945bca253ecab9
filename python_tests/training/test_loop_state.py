"""Runs of the training loop that go on bit for bit, and the seconds that they say."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_runs import CONFIG, train, without_times
from torch.nn import functional as F

from adadagrad_kernels.training import cost, loop
from adadagrad_kernels.training.cost import PlainBackwardTimer
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.loop import Trainer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "cnn", "micro_batch": 60, "samples": 1500},
        {"optimizer": "adagrad-norm", "lr": 0.5, "test_interval": 3},
        {"optimizer": "sgd", "momentum": 0.9, "lr": 0.01, "memory": 2**20},
        {"optimizer": "adam", "test": "augmented", "theta": 0.4, "nu": 0.8, "eta": None},
        {"test": "none", "eta": None, "batch_size": 20, "max_batch": 20, "samples": 400},
        {"test": "none", "eta": None, "schedule": "step:300", "lr_rule": 0.75},
        {"test": "none", "eta": None, "schedule": "plateau:1", "evaluate_every": 50},
        {"test": "none", "eta": None, "schedule": "wsd:2000", "lr_rule": "sqrt"},
        {"test": "none", "eta": None, "schedule": "one-cycle:2000,2"},
        {"error_bars": 0.9, "smoothing": 0.5, "micro_batch": 9},
        {"test": "metric", "smoothing": 0.0, "cooldown": 2, "growth_cap": 1.5},
        {
            "test": "diversity",
            "eta": None,
            "delta": 0.02,
            "epochs_between": 1,
            "optimizer": "sgd",
            "lr_rule": "linear",
        },
        {
            "test": "adabatchgrad",
            "eta": None,
            "theta": 0.5,
            "nu": 0.7,
            "filter_steps": 3,
            "optimizer": "delayed-adagrad-norm",
            "lr": 1.0,
        },
        {"test": "cabs", "eta": None, "scale": 8.0, "optimizer": "sgd"},
        {"test": "noise-scale", "eta": None, "scale": 1.0, "smoothing": 0.9, "hysteresis": 1.2},
    ],
    ids=lambda changes: ",".join(changes) or "plain",
)
@pytest.mark.parametrize("steps", [1, 9])
def test_state_continues_bit_for_bit(data: Data, changes: dict[str, Any], steps: int) -> None:
    config = replace(CONFIG, **changes)
    whole, first = Trainer(config, data), Trainer(config, data)
    lines = train(whole)
    begun = train(first, steps)
    state = first.state_dict()
    resumed = Trainer(replace(config, seed=0), data)
    resumed.load_state_dict(state)
    assert without_times(begun + train(resumed)) == without_times(lines)
    for expected, found in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_seconds_and_share_are_what_they_say(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def takes(seconds: float, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def slower(*arguments: Any, **keywords: Any) -> Any:
            nonlocal now
            now += seconds
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, slower)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    run = Trainer(replace(CONFIG, max_batch=5, samples=24, evaluate_every=1), data)
    takes(4, run, "_backward")
    takes(1, run.source, "_record")
    takes(2, run.optimizer, "step")
    takes(1, run.controller, "update")
    monkeypatch.setattr(PlainBackwardTimer, "_time", lambda *samples: 3.0)
    takes(100, loop, "evaluation_metrics")
    lines = train(run)
    # A step with a test, and four at the cap without.
    assert [line["batch/used"] for line in lines] == [4, 5, 5, 5, 5]
    assert [line["seconds"] for line in lines] == [8, 14, 20, 26, 32]
    # 5 for the gradient with statistics, less the 3 of a plain one, and 1 for the test.
    assert {line["statistics_seconds"] for line in lines} == {3}
    assert lines[-1]["statistics_share"] == 3 / 32


def test_timing_runs_change_nothing(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose plain passes are timed at every step equals one where they never are."""
    config = replace(CONFIG, model="cnn", samples=600)
    monkeypatch.setattr(cost, "REPEAT_AFTER", 0)
    timed = Trainer(config, data)
    lines = train(timed)
    monkeypatch.setattr(PlainBackwardTimer, "seconds", lambda *arguments: 0.0)
    untimed = Trainer(config, data)
    assert without_times(train(untimed)) == without_times(lines)
    for one, other in zip(timed.model.parameters(), untimed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_plain_pass_is_timed_when_new_and_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = slow = 0.0
    sizes = []

    class Model(torch.nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            nonlocal now
            now += 0.002 * len(inputs) + slow
            sizes.append(len(inputs))
            return super().forward(inputs)

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    model = Model(1, 2)
    timer = PlainBackwardTimer(model, F.cross_entropy)
    inputs, targets = torch.ones(20, 1), torch.zeros(20, dtype=torch.int64)
    random_state = torch.get_rng_state()
    for _ in range(2 * cost.REPEAT_AFTER):
        assert timer.seconds(inputs[:2], targets[:2], 5) == pytest.approx(0.004)
    assert sizes == [2, 2]
    # Of 20 samples in micro-batches of 5 one is timed; 12 of them take the same estimate.
    assert timer.seconds(inputs, targets, 5) == pytest.approx(0.04)
    assert timer.seconds(inputs[:12], targets[:12], 5) == pytest.approx(0.024)
    assert sizes == [2, 2, 5]
    # One slow moment does not count.
    monkeypatch.setattr(cost, "REPEAT_AFTER", 0)
    slow = 1.0
    for _ in range(3):
        timer.seconds(inputs, targets, 3)
        timer.seconds(inputs, targets, 4)
        slow = 0.0
    assert timer.seconds(inputs, targets, 3) == pytest.approx(0.04)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)
