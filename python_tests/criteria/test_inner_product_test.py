"""The inner-product tests on the published vector."""

from __future__ import annotations

import math

import pytest

from adadagrad_kernels.criteria import AugmentedInnerProductTest, InnerProductTest
from adadagrad_kernels.statistics import GradientStatistics

N, V_IP, V_ORTH = 6.05078125, 10.9620361328125, 20.880291432260446
THETA, NU = math.sqrt(V_IP / (8 * N * N)), math.sqrt(V_ORTH / (8 * N))


@pytest.mark.parametrize(("theta", "size"), [(0.5, 1.19765), (0.1, 29.94114)])
def test_published_sizes(batch: GradientStatistics, theta: float, size: float) -> None:
    decision = InnerProductTest(theta)(batch)
    assert decision.criterion == "inner_product_test"
    assert decision.batch_size == pytest.approx(size, abs=5e-6)
    assert decision.passed == (size <= 8)
    assert decision.smallest_constants == {"theta": pytest.approx(THETA, rel=1e-13)}


@pytest.mark.parametrize(
    ("theta", "nu", "size"),
    [(0.5, 1.0, 3.45084), (0.1, 0.1, 345.08422), (0.1, 1.0, 29.94114), (0.05, 0.5, 119.76456)],
)
def test_published_augmented_sizes(
    batch: GradientStatistics, theta: float, nu: float, size: float
) -> None:
    decision = AugmentedInnerProductTest(theta, nu)(batch)
    assert decision.criterion == "augmented_inner_product_test"
    assert decision.batch_size == pytest.approx(size, abs=2e-5)
    assert decision.passed == (size <= 8)
    assert decision.smallest_constants == {
        "theta": pytest.approx(THETA, rel=1e-13),
        "nu": pytest.approx(NU, rel=1e-13),
    }


@pytest.mark.parametrize("sum_sq_norms", [math.nan, math.inf])
def test_one_part_that_is_not_finite_decides(sum_sq_norms: float) -> None:
    statistics = GradientStatistics(4, 1.0, sum_sq_norms, sum_sq_inner_products=5.0)
    decision = AugmentedInnerProductTest(0.5, 0.5)(statistics)
    assert not math.isfinite(decision.batch_size)
    assert not decision.passed
