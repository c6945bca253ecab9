"""CABS: published values, averages as published, the learning rate, and refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from adadagrad_kernels import BatchController
from adadagrad_kernels.criteria import CABS, BatchSizeRule
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.statistics import GradientStatistics

XI = 19.85546875


def optimizer(lr: Any = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=lr)


def test_published_variance(batch: GradientStatistics) -> None:
    decision = CABS(lr=0.1, c=3.0, beta=0.0)(replace(batch, loss=0.5))
    assert decision.criterion == "cabs"
    assert decision.batch_size == pytest.approx(3 * 0.1 * XI / 0.5, rel=1e-11)
    assert not decision.passed
    assert CABS(lr=0.1, beta=0.0)(replace(batch, loss=0.5)).passed


def test_averages_begin_at_zero_and_one(batch: GradientStatistics) -> None:
    rule = CABS(lr=0.1)
    xi, loss = 0.0, 1.0
    for measured in (2.0, 0.5, 0.25):
        decision = rule(replace(batch, loss=measured))
        xi, loss = 0.95 * xi + 0.05 * XI, 0.95 * loss + 0.05 * measured
        assert decision.batch_size == pytest.approx(0.1 * xi / loss, rel=1e-10)
    assert rule.state_dict() == {"variance": pytest.approx(xi), "loss": pytest.approx(loss)}


def test_the_optimizer_is_read_at_every_decision(batch: GradientStatistics) -> None:
    for lr in (0.5, torch.tensor(0.5)):
        sgd = optimizer(lr)
        rule = CABS(lr=sgd, beta=0.0)
        statistics = replace(batch, loss=2.0)
        assert rule(statistics).batch_size == pytest.approx(0.5 * XI / 2, rel=1e-6)
        sgd.param_groups[0]["lr"] = 0.25
        assert rule(statistics).batch_size == pytest.approx(0.25 * XI / 2, rel=1e-11)
    sgd.param_groups[0]["lr"] = 0.0
    assert rule(statistics).batch_size == 0.0


def test_text_tells_the_settings_and_no_address() -> None:
    assert repr(CABS(lr=0.1)) == "CABS(lr=0.1, c=1.0, beta=0.95, eps=1e-12)"
    assert repr(CABS(lr=optimizer(), c=2.0)) == "CABS(lr=<SGD>, c=2.0, beta=0.95, eps=1e-12)"


def test_the_controller_resumes_and_shrinks_with_it(batch: GradientStatistics) -> None:
    def controller() -> BatchController:
        return BatchController(
            CABS(lr=optimizer(), c=30.0), batch_size=2, max_batch_size=2048, allow_shrink=True
        )

    losses = [0.1, 0.1, 0.1, 0.1, 90.0, 90.0, 90.0]
    through, first, second = controller(), controller(), controller()
    sizes = [through.update(replace(batch, loss=loss)) for loss in losses]
    assert sizes[3] > sizes[0]
    assert sizes[-1] < sizes[3]
    for loss in losses[:4]:
        first.update(replace(batch, loss=loss))
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.update(replace(batch, loss=loss)) for loss in losses[4:]] == sizes[4:]
    assert isinstance(second.criterion, BatchSizeRule)


def test_a_loss_that_is_missing_or_negative_changes_nothing(batch: GradientStatistics) -> None:
    rule = CABS(lr=0.1)
    rule(replace(batch, loss=2.0))
    before = rule.state_dict()
    with pytest.raises(MissingStatisticError, match=r"PerSampleGradients.*replace\(statistics, l"):
        rule(batch)
    with pytest.raises(ValueError, match=r"got -0\.5; accepted are losses from 0 up: add a const"):
        rule(replace(batch, loss=-0.5))
    with pytest.raises(ValueError, match="at least two samples"):
        rule(GradientStatistics(1, 1.0, 1.0, loss=1.0))
    for loss in (math.nan, math.inf):
        assert math.isnan(rule(replace(batch, loss=loss)).batch_size)
    assert math.isnan(rule(replace(batch, loss=1.0, sum_sq_norms=math.inf)).batch_size)
    assert rule.state_dict() == before


def test_bad_settings_and_states() -> None:
    for name in ("lr", "c", "eps"):
        for value in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name} must be a finite number greater than 0"):
                CABS(**{"lr": 0.1, name: value})
    for value in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="beta must be at least 0 and below 1"):
            CABS(0.1, beta=value)
    rule = CABS(0.1)
    for state in (None, {"variance": 1.0}, {"variance": 1.0, "loss": None}):
        with pytest.raises(ValueError, match="state of CABS"):
            rule.load_state_dict(state)
    assert rule.state_dict() == {"variance": 0.0, "loss": 1.0}
