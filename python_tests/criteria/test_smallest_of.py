"""SmallestOf: the filter's windows, what it passes on, and its state."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from gradient_rows import record

from adadagrad_kernels import BatchController
from adadagrad_kernels.criteria import (
    AugmentedInnerProductTest,
    BatchSizeRule,
    CoordinateNormTest,
    Decision,
    GradientDiversity,
    GradientNoiseScale,
    NormTest,
    SmallestOf,
)
from adadagrad_kernels.statistics import GradientStatistics


def wanting(size: float) -> GradientStatistics:
    """For which NormTest(1) suggests this size; the batch has 8 samples."""
    return GradientStatistics(8, 1.0, 8 + 7 * size)


def test_every_kth_step_takes_the_smallest() -> None:
    rule = SmallestOf(NormTest(1.0), steps=3)
    sizes = [20.0, 500.0, 30.0, 7.0, 90.0, 80.0, 16.0, 15.0, math.inf]
    decisions = [rule(wanting(size)) for size in sizes]
    assert [d.batch_size for d in decisions] == [8, 8, 20, 8, 8, 7, 8, 8, 15]
    assert [d.passed for d in decisions] == [True, True, False, True, True, True, True, True, False]
    assert decisions[0].criterion == rule.name == "smallest_of_3_norm_test"
    assert decisions[0].smallest_constants == NormTest(1.0)(wanting(20.0)).smallest_constants


def test_one_step_changes_nothing() -> None:
    rule = SmallestOf(NormTest(1.0), steps=1)
    assert [rule(wanting(size)).batch_size for size in (20.0, 5.0)] == [20.0, 5.0]


def test_as_in_adabatchgrad() -> None:
    test = AugmentedInnerProductTest(0.9, 5.84)
    controller = BatchController(SmallestOf(test), batch_size=8, max_batch_size=4096)
    noise = [torch.randn(8, 4, dtype=torch.float64) for _ in range(10)]
    rows = [each - 0.9 * each.mean(0) for each in noise]  # the less mean, the larger T
    sizes = [controller.update(record(each)) for each in rows]
    suggestions = [test(record(each)).batch_size for each in rows]
    first = max(8, math.ceil(min(suggestions[:5])))
    assert sizes == [8] * 4 + [first] * 5 + [max(first, math.ceil(min(suggestions[5:])))]
    assert sizes[-1] > 8


def test_steps_that_decide_nothing_do_not_count() -> None:
    rule = SmallestOf(NormTest(1.0), steps=2)
    assert rule(wanting(20.0)).batch_size == 8
    rule.count(8)
    broken = rule(GradientStatistics(8, math.nan, 1.0))
    assert math.isnan(broken.batch_size)
    assert not broken.passed
    assert rule(wanting(30.0)).batch_size == 20


class Remembering:
    """A rule that notes what it is told."""

    name = "remembering"
    needs_variance = True
    needs_inner_products = False

    def __init__(self) -> None:
        self.counted: list[int] = []

    def __call__(self, statistics: GradientStatistics) -> Decision:
        return Decision(self.name, 100.0, False, {})

    def wants_statistics(self, samples: int) -> bool:
        return samples > 8

    def count(self, samples: int) -> None:
        self.counted.append(samples)

    def state_dict(self) -> dict[str, Any]:
        return {"counted": list(self.counted)}

    def load_state_dict(self, state: Any) -> None:
        if set(state or {}) != {"counted"}:
            raise ValueError("not mine")
        self.counted = list(state["counted"])


def test_a_criterion_that_remembers_is_told() -> None:
    inner = Remembering()
    rule = SmallestOf(inner, steps=2)
    assert isinstance(rule, BatchSizeRule)
    assert (rule.needs_variance, rule.needs_inner_products) == (True, False)
    assert (rule.wants_statistics(8), rule.wants_statistics(9)) == (False, True)
    rule.count(8)
    assert inner.counted == [8]
    rule(wanting(1.0))
    other = SmallestOf(Remembering(), steps=2)
    other.load_state_dict(json.loads(json.dumps(rule.state_dict())))
    assert other.criterion.counted == [8]
    assert other(wanting(1.0)).batch_size == 100.0
    with pytest.raises(ValueError, match="not mine"):
        other.load_state_dict({"suggestions": [1.0], "criterion": None})
    assert other.state_dict() == {"suggestions": [], "criterion": {"counted": [8]}}


def test_what_the_criterion_needs() -> None:
    plain = SmallestOf(NormTest(1.0))
    plain.count(8)
    assert plain.wants_statistics(8)
    assert (plain.needs_variance, plain.needs_inner_products) == (False, False)
    assert SmallestOf(CoordinateNormTest(1.0)).needs_variance
    assert SmallestOf(AugmentedInnerProductTest(1, 1)).needs_inner_products


def test_the_controller_resumes_with_it() -> None:
    def controller(steps: int = 3) -> BatchController:
        rule = SmallestOf(GradientNoiseScale(beta=0.5), steps)
        return BatchController(rule, batch_size=8, max_batch_size=4096)

    records = [GradientStatistics(8, 5.0 + k, 200.0 + 10 * k) for k in range(7)]
    through, first, second = controller(), controller(), controller()
    sizes = [through.update(each) for each in records]
    for each in records[:4]:
        first.update(each)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.update(each) for each in records[4:]] == sizes[4:]
    with pytest.raises(ValueError, match="criterion"):
        controller(4).load_state_dict(first.state_dict())


def test_text_without_an_address() -> None:
    assert repr(SmallestOf(NormTest(0.5), 4)) == "SmallestOf(NormTest(eta=0.5), steps=4)"
    assert repr(SmallestOf(Remembering())) == "SmallestOf(remembering, steps=5)"


def test_refusals() -> None:
    for steps in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="steps must be an integer of at least 1, got"):
            SmallestOf(NormTest(1.0), steps)
    rule = SmallestOf(NormTest(1.0), steps=2)
    rule(wanting(20.0))
    for state in (None, {}, {"suggestions": 3, "criterion": None}):
        with pytest.raises(ValueError, match="state of SmallestOf"):
            rule.load_state_dict(state)
    with pytest.raises(ValueError, match="fewer than steps=2"):
        rule.load_state_dict({"suggestions": [1.0, 2.0], "criterion": None})
    assert rule.state_dict() == {"suggestions": [20.0], "criterion": None}


def test_steps_that_decide_nothing_suggest_nothing() -> None:
    """DiveBatch decides at the end of an epoch; in between it names the size that it has seen."""
    rule = SmallestOf(GradientDiversity(1.0, dataset_size=16), steps=2)
    record = GradientStatistics(8, 1.0, 200.0, mean_gradient={"w": torch.ones(1)})
    sizes = [rule(record).batch_size for _ in range(4)]
    # Two epochs of two steps: each suggests 16 * 400 / 16^2 = 25.
    assert sizes == [8.0, 8.0, 8.0, 25.0]
