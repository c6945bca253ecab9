"""RunningAverage: its formula, its start, and going on from what was kept."""

from __future__ import annotations

import math

import pytest

from adadagrad_kernels.averages import RunningAverage

VALUES = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0]


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.999])
def test_the_weighted_mean_that_is_written_out_here(beta: float) -> None:
    average = RunningAverage(beta)
    assert math.isnan(average.mean)
    for n, value in enumerate(VALUES, start=1):
        weights = [beta ** (n - k) for k in range(1, n + 1)]
        expected = sum(w * x for w, x in zip(weights, VALUES, strict=False)) / sum(weights)
        assert average.add(value) == pytest.approx(expected, rel=1e-12)


def test_an_average_goes_on_from_its_sums() -> None:
    whole, first = _of(0.9, VALUES), _of(0.9, VALUES[:2])
    second = RunningAverage(0.9, total=first.total, weight=first.weight)
    for value in VALUES[2:]:
        second.add(value)
    assert (second.total, second.weight, second.mean) == (whole.total, whole.weight, whole.mean)


@pytest.mark.parametrize("beta", [-0.1, 1.0, math.nan])
def test_other_factors_are_refused(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be at least 0 and below 1, got"):
        RunningAverage(beta)


def _of(beta: float, values: list[float]) -> RunningAverage:
    average = RunningAverage(beta)
    for value in values:
        average.add(value)
    return average
