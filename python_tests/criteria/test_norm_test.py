"""NormTest on the published vector."""

from __future__ import annotations

import math

import pytest

from adadagrad_kernels.criteria import NormTest
from adadagrad_kernels.statistics import GradientStatistics


@pytest.mark.parametrize(
    ("eta", "size", "rounded"),
    [(0.1, 375.02536, 376), (0.25, 60.00406, 61), (0.5, 15.00101, 16), (1.0, 3.75025, 4)],
)
def test_published_sizes(batch: GradientStatistics, eta: float, size: float, rounded: int) -> None:
    decision = NormTest(eta)(batch)
    assert decision.criterion == "norm_test"
    assert decision.batch_size == pytest.approx(size, abs=5e-6)
    assert math.ceil(decision.batch_size) == rounded
    assert decision.passed == (eta == 1.0)
    assert decision.smallest_constants == {
        "eta": pytest.approx(math.sqrt(22.691964285714285 / (8 * 6.05078125)), rel=1e-14)
    }


def test_noise_multiplies_the_batch_by_at_most_the_inverse_square_of_eta() -> None:
    """With orthogonal gradients, N = V_norm / b exactly."""
    noise = GradientStatistics(batch_size=10, mean_sq_norm=0.1, sum_sq_norms=10.0)
    assert NormTest(eta=0.1)(noise).batch_size == pytest.approx(10 / 0.01)


def test_a_batch_of_exactly_the_size_asked_for_passes() -> None:
    statistics = GradientStatistics(batch_size=4, mean_sq_norm=1.0, sum_sq_norms=16.0)
    decision = NormTest(eta=1.0)(statistics)
    assert decision.batch_size == 4.0
    assert decision.passed
