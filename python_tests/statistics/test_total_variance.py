"""StatisticsAccumulator(law_of_total_variance=True): the published code's variance and its bias."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics, StatisticsAccumulator

ROWS = torch.tensor(
    [[(3 * i + 5 * j) % 7 - 2 + 0.5 * (i == j) for j in range(5)] for i in range(8)],
    dtype=torch.float64,
)


def record(rows: Tensor, variance: bool = True) -> GradientStatistics:
    return GradientStatistics.from_moments(
        {"a": batch_moments(rows[:, :2], variance=variance), "b": batch_moments(rows[:, 2:])}
    )


def added(parts: list[Tensor], *, variance: bool = True) -> GradientStatistics:
    accumulator = StatisticsAccumulator(law_of_total_variance=True)
    for part in parts:
        accumulator.add(record(part, variance))
    return accumulator.result()


def test_published_value_of_four_workers_with_two_samples() -> None:
    statistics = added(list(ROWS.split(2)))
    assert statistics.variance_norm == pytest.approx(35.37109375, rel=1e-14)
    assert statistics.mean_sq_norm == pytest.approx(6.05078125, rel=1e-14)
    assert statistics.sq_norms is None
    plain = StatisticsAccumulator()
    for part in ROWS.split(2):
        plain.add(record(part))
    assert plain.result().variance_norm == pytest.approx(22.691964285714285, rel=1e-14)


@pytest.mark.parametrize("size", [2, 4, 8])
def test_every_coordinate_by_the_law_of_total_variance(size: int) -> None:
    parts = list(ROWS.split(size))
    means = torch.stack([part.mean(0) for part in parts])
    within = torch.stack([part.var(0) for part in parts]).mean(0)
    expected = within + means.square().mean(0) - means.mean(0).square()
    found = added(parts).variance
    assert found is not None
    torch.testing.assert_close(torch.cat([found["a"], found["b"]]), expected)
    assert added(parts).variance_norm == pytest.approx(expected.sum().item(), rel=1e-13)


def test_its_expectation_is_too_large_by_the_number_of_chunks_over_the_samples() -> None:
    """Over every batch of four that can be drawn from three samples, in two chunks."""
    population = torch.tensor([[1.0, 0.5, 0.0], [-2.0, 3.0, 1.0], [0.25, -1.0, 2.0]]).double()
    found = [
        added(list(population[list(drawn)].split(2))).variance_norm
        for drawn in itertools.product(range(3), repeat=4)
    ]
    variance = population.var(0, unbiased=False).sum().item()
    assert sum(found) / len(found) == pytest.approx((1 + 1 / 4) * variance, rel=1e-12)


def test_what_is_not_measured_by_all_is_left_out() -> None:
    accumulator = StatisticsAccumulator(law_of_total_variance=True)
    for part, variance in zip(ROWS.split(2), (True, False, True, True), strict=True):
        accumulator.add(record(part, variance))
    assert accumulator.result().variance is None
    assert accumulator.result().variance_norm == pytest.approx(35.37109375, rel=1e-14)


def test_chunks_that_do_not_fit_change_nothing() -> None:
    accumulator = StatisticsAccumulator(law_of_total_variance=True)
    accumulator.add(record(ROWS[:2]))
    with pytest.raises(ValueError, match=r"got 3 samples after 2: split the batch evenly"):
        accumulator.add(record(ROWS[2:5]))
    for part in ROWS[2:].split(2):
        accumulator.add(record(part))
    assert accumulator.result().variance_norm == pytest.approx(35.37109375, rel=1e-14)
    with pytest.raises(ValueError, match="at least two samples"):
        added(list(ROWS.split(1)), variance=False)
