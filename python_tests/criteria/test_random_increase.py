"""RandomIncrease: how often, how much, and the same again."""

from __future__ import annotations

import json
import math

import pytest

from adadagrad_kernels import BatchController
from adadagrad_kernels.criteria import BatchSizeRule, RandomIncrease
from adadagrad_kernels.statistics import GradientStatistics

#: Draws of seed 0 below 0.1.
HITS = [9, 10, 19, 20, 46, 53]
BATCH = GradientStatistics(200, 1.0, 300.0)


def drawn(rule: RandomIncrease, steps: int) -> list[bool]:
    return [not rule(BATCH).passed for _ in range(steps)]


def test_by_one_percent_and_one_sample_at_least() -> None:
    always = RandomIncrease(probability=1.0)
    decision = always(BATCH)
    assert (decision.criterion, decision.passed) == ("random_increase", False)
    assert decision.batch_size == pytest.approx(202.0)
    never = RandomIncrease(probability=0.0)(BATCH)
    assert (never.batch_size, never.passed) == (200.0, True)
    controller = BatchController(RandomIncrease(1.0), batch_size=8, max_batch_size=64)
    assert [controller.update(GradientStatistics(8 + k, 1.0, 100.0)) for k in range(3)] == [
        9,
        10,
        11,
    ]


def test_as_often_as_the_probability_says() -> None:
    """Four thousand draws; the bound is four standard deviations."""
    for probability in (0.005, 0.3):
        count = sum(drawn(RandomIncrease(probability, seed=5), 4000))
        deviation = math.sqrt(4000 * probability * (1 - probability))
        assert abs(count - 4000 * probability) < 4 * deviation
        assert count


def test_seeds_and_states_repeat() -> None:
    first, again, other = (RandomIncrease(0.5, seed=seed) for seed in (1, 1, 2))
    expected = drawn(first, 60)
    assert drawn(again, 20) == expected[:20]
    assert drawn(other, 60) != expected
    resumed = RandomIncrease(0.5, seed=1)
    resumed.load_state_dict(json.loads(json.dumps(again.state_dict())))
    resumed.count(200)
    assert resumed.wants_statistics(200)
    assert drawn(resumed, 40) == expected[20:]
    assert isinstance(first, BatchSizeRule)


def test_draws_are_the_same_in_every_process() -> None:
    """Fixed for good: ranks, and runs that are resumed later, must agree."""
    assert [i for i, hit in enumerate(drawn(RandomIncrease(0.1), 60)) if hit] == HITS


def test_refusals() -> None:
    for probability in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="probability must be from 0 to 1, got"):
            RandomIncrease(probability)
    for factor in (1.0, 0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="factor must be a finite number greater than 1, got"):
            RandomIncrease(factor=factor)
    rule = RandomIncrease()
    for state in ({}, {"draws": "3"}, {"draws": -1}, {"draws": 1.5}, None):
        with pytest.raises(ValueError, match="draws"):
            rule.load_state_dict(state)
    assert rule.state_dict() == {"draws": 0}
