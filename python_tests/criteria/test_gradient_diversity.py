"""GradientDiversity: whole epochs, periods, steps that were not measured, and its state."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from gradient_rows import record
from torch import Tensor

from adadagrad_kernels import BatchController
from adadagrad_kernels.criteria import BatchSizeRule, GradientDiversity
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.statistics import GradientStatistics


def diversity(rows: Tensor) -> float:
    return (rows.square().sum() / rows.sum(0).square().sum()).item()


def test_published_value(batch: GradientStatistics) -> None:
    decision = GradientDiversity(delta=3.0, dataset_size=8)(batch)
    assert decision.criterion == "gradient_diversity"
    assert decision.batch_size == pytest.approx(3 * 8 * 0.5351839896707553, rel=1e-13)
    assert not decision.passed
    assert GradientDiversity(delta=1.0, dataset_size=8)(batch).passed


def test_batches_of_any_sizes_add_up_to_the_epoch() -> None:
    rule = GradientDiversity(delta=0.7, dataset_size=20)
    for _ in range(3):
        rows = torch.randn(20, 4, dtype=torch.float64) + 0.2
        *early, last = [rule(record(part)) for part in rows.split([3, 5, 7, 5])]
        assert [decision.batch_size for decision in early] == [3, 5, 7]
        assert all(decision.passed for decision in early)
        assert last.batch_size == pytest.approx(0.7 * 20 * diversity(rows), rel=1e-12)


def test_only_the_last_epoch_of_a_period_is_measured() -> None:
    rule = GradientDiversity(delta=1.0, dataset_size=12, epochs_between=3)
    for _ in range(2):
        for step in range(6):
            assert not rule.wants_statistics(4)
            if step % 2:
                rule.count(4)
            else:  # measured all the same: it does not enter
                assert rule(record(100 * torch.ones(4, 3).double())).batch_size == 4
        rows = torch.randn(12, 3, dtype=torch.float64)
        for part in rows.split(4):
            assert rule.wants_statistics(4)
            decision = rule(record(part))
        assert decision.batch_size == pytest.approx(12 * diversity(rows), rel=1e-11)


def test_steps_across_the_end_of_an_epoch_belong_to_where_they_begin() -> None:
    rule = GradientDiversity(delta=1.0, dataset_size=10, epochs_between=2)
    rows = torch.randn(12, 3, dtype=torch.float64)
    wanted = []
    for _ in range(2):  # positions 0, 4, 8 and 12, 16
        wanted.append(rule.wants_statistics(4))
        rule.count(4)
    wanted.append(rule.wants_statistics(4))
    rule.count(4)
    assert wanted == [False] * 3
    assert rule(record(rows[:4])).batch_size == 4
    decision = rule(record(rows[4:8]))  # ends the second epoch
    assert decision.batch_size == pytest.approx(8 * diversity(rows[:8]), rel=1e-12)
    rule.count(7)
    assert not rule.wants_statistics(4)
    rule.count(3)
    assert rule.wants_statistics(4)


def test_where_the_last_step_is_not_measured_the_next_decides() -> None:
    rule = GradientDiversity(delta=1.0, dataset_size=10, epochs_between=2)
    rule.count(10)
    rows = torch.randn(8, 3, dtype=torch.float64)
    assert rule(record(rows[:5])).batch_size == 5
    rule.count(5)
    assert rule.wants_statistics(3)
    decision = rule(record(rows[5:]))
    assert decision.batch_size == pytest.approx(8 * diversity(rows), rel=1e-12)
    assert not rule.wants_statistics(3)


def test_diversities_that_are_not_finite_ask_for_the_largest_batch() -> None:
    rows = torch.tensor([[1.0, 2.0], [-1.0, -2.0]], dtype=torch.float64)
    assert GradientDiversity(0.1, 2)(record(rows)).batch_size == math.inf
    broken = replace(record(rows), sum_sq_norms=math.nan)
    assert GradientDiversity(0.1, 2)(broken).batch_size == math.inf
    controller = BatchController(GradientDiversity(0.1, 2), batch_size=2, max_batch_size=64)
    assert controller.update(record(rows)) == 64
    nothing = GradientDiversity(0.1, 2)(record(0 * rows))
    assert (nothing.batch_size, nothing.passed) == (0.0, True)


def test_half_precision_gradients_are_summed_in_single() -> None:
    rows = (torch.randn(64, 3) + 1).to(torch.bfloat16)
    rule = GradientDiversity(delta=1.0, dataset_size=64)
    means = []
    for part in rows.split(2):
        statistics = record(part)
        means.append(torch.cat(list(statistics.require_mean_gradient().values())).double())
        decision = rule(statistics)
    norms = rows.double().square().sum()
    expected = norms / (2 * torch.stack(means).sum(0)).square().sum() * 64
    assert decision.batch_size == pytest.approx(expected.item(), rel=1e-4)


def test_the_controller_measures_and_resumes_with_it() -> None:
    def controller(delta: float = 0.5) -> BatchController:
        rule = GradientDiversity(delta, dataset_size=16, epochs_between=2)
        return BatchController(rule, batch_size=4, max_batch_size=64)

    rows = list(torch.randn(12, 4, 3, dtype=torch.float64))

    def run(controller: BatchController, parts: list[Tensor]) -> list[tuple[bool, int]]:
        found = []
        for part in parts:
            wanted = controller.wants_test(4)
            statistics = record(part)
            size = controller.update(statistics) if wanted else controller.step(4)
            found.append((wanted, size))
        return found

    through = run(controller(), rows)
    assert [wanted for wanted, _ in through] == [False] * 4 + [True] * 4 + [False] * 4
    assert through[6][1] == 4
    expected = 0.5 * 16 * diversity(torch.cat(rows[4:8]))
    assert through[7][1] == max(4, math.ceil(expected))
    first = controller()
    run(first, rows[:6])
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    run(first, rows[6:7])
    second = controller()
    second.load_state_dict(torch.load(buffer))
    assert run(second, rows[6:]) == through[6:]
    with pytest.raises(ValueError, match="criterion"):
        controller(0.6).load_state_dict(first.state_dict())


def test_what_is_saved_does_not_change_later() -> None:
    rule = GradientDiversity(1.0, 100)
    rule(record(torch.ones(4, 3)))
    saved = rule.state_dict()
    other = GradientDiversity(1.0, 100)
    other.load_state_dict(saved)
    for each in (rule, other):
        each(record(torch.ones(4, 3)))
    assert torch.equal(saved["gradient"]["a"], torch.full((2,), 4.0))
    assert isinstance(rule, BatchSizeRule)


@pytest.mark.parametrize(
    "change", [{"position": "0"}, {"gradient": {"a": 1.0}}, {"other": 1}, {"samples": None}]
)
def test_a_state_that_does_not_fit_changes_nothing(change: dict[str, Any]) -> None:
    rule = GradientDiversity(1.0, 100)
    rule(record(torch.ones(4, 3)))
    before = str(rule.state_dict())
    with pytest.raises(ValueError, match="state of GradientDiversity"):
        rule.load_state_dict({**GradientDiversity(1.0, 100).state_dict(), **change})
    with pytest.raises(ValueError, match="state of GradientDiversity"):
        rule.load_state_dict({})
    assert str(rule.state_dict()) == before


def test_refusals() -> None:
    for delta in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="delta must be a finite number greater than 0"):
            GradientDiversity(delta, 8)
    for name in ("dataset_size", "epochs_between"):
        for value in (0, -1, 1.5, True):
            with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1"):
                GradientDiversity(**{"delta": 1.0, "dataset_size": 8, name: value})
    rule = GradientDiversity(1.0, 100)
    with pytest.raises(MissingStatisticError, match=r"mean_gradient.*PerSampleGradients"):
        rule(GradientStatistics(4, 1.0, 8.0))
    rule(record(torch.ones(4, 3)))
    before = str(rule.state_dict())
    with pytest.raises(ValueError, match=r"same parameters.*\['a', 'b'\]"):
        rule(record(torch.ones(4, 2)))
    assert str(rule.state_dict()) == before
