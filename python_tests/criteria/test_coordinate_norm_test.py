"""CoordinateNormTest: published values, threshold, quantile."""

from __future__ import annotations

import math

import pytest
import torch

from adadagrad_kernels.criteria import CoordinateNormTest
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics

#: T_j for eta = 0.5.
SIZES = [40.46281, 9.77519, 13.77756, 27.67202, 10.15393]


def test_published_size(batch: GradientStatistics) -> None:
    decision = CoordinateNormTest(eta=0.5)(batch)
    assert decision.criterion == "coordinate_norm_test"
    assert decision.batch_size == pytest.approx(40.46281, abs=5e-6)
    assert math.ceil(decision.batch_size) == 41
    assert not decision.passed
    assert decision.smallest_constants["eta"] == pytest.approx(math.sqrt(0.25 * 40.46281 / 8), 1e-6)


@pytest.mark.parametrize(
    ("quantile", "size"),
    [(1.0, 40.46281), (0.81, 40.46281), (0.8, 27.67202), (0.5, 13.77756), (0.01, 9.77519)],
)
def test_quantile_is_the_size_for_that_share(
    batch: GradientStatistics, quantile: float, size: float
) -> None:
    decision = CoordinateNormTest(eta=0.5, quantile=quantile)(batch)
    assert decision.batch_size == pytest.approx(size, abs=5e-6)
    assert sum(value <= size for value in SIZES) >= quantile * 5


@pytest.mark.parametrize(
    ("threshold", "size"), [(0.68, 40.46281), (0.6875, 27.67202), (1.2, 10.15393), (1.4375, 8.0)]
)
def test_coordinates_up_to_the_threshold_are_left_out(
    batch: GradientStatistics, threshold: float, size: float
) -> None:
    """The means are 0.6875, 1.3125, 1.0625, 0.8125 and 1.4375; with none left the size stays."""
    decision = CoordinateNormTest(eta=0.5, threshold=threshold)(batch)
    assert decision.batch_size == pytest.approx(size, abs=5e-6)
    assert decision.passed == (threshold == 1.4375)


def test_sign_and_scale_of_the_mean_do_not_matter() -> None:
    rows = torch.tensor([[-1.0, 2e-30], [-3.0, 6e-30]], dtype=torch.float32)
    statistics = GradientStatistics.from_moments({"weight": batch_moments(rows.double())})
    both = CoordinateNormTest(eta=0.5, threshold=0.0)(statistics)
    assert both.batch_size == pytest.approx(2.0, rel=1e-6)
    assert CoordinateNormTest(eta=0.5)(statistics).batch_size == pytest.approx(2.0)


def test_bad_settings(batch: GradientStatistics) -> None:
    for threshold in (-1e-9, math.inf, math.nan):
        with pytest.raises(ValueError, match="threshold must be a finite number >= 0, got"):
            CoordinateNormTest(0.5, threshold=threshold)
    for quantile in (0.0, 1.0001, math.nan):
        with pytest.raises(ValueError, match=r"quantile must be in \(0, 1\], got"):
            CoordinateNormTest(0.5, quantile=quantile)
    assert batch.variance is not None
    without_mean = GradientStatistics(8, 6.0, 209.0, variance=batch.variance)
    with pytest.raises(MissingStatisticError, match="mean_gradient"):
        CoordinateNormTest(0.5)(without_mean)
