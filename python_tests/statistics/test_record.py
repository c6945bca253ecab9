"""GradientStatistics: published values, exact merging, and what a record cannot say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.ops import BatchMoments, batch_moments
from adadagrad_kernels.statistics import GradientStatistics

#: Eight gradients of five coordinates whose statistics were worked out by hand.
VECTOR = torch.tensor(
    [[(3 * i + 5 * j) % 7 - 2 + 0.5 * (i == j) for j in range(5)] for i in range(8)],
    dtype=torch.float64,
)


def record(rows: Tensor, *, inner_products: bool = False, loss: float | None = None):
    """The record of these per-sample gradients, of which two columns are one parameter."""
    moments = {}
    for name, columns in {"first": rows[:, :-2], "last": rows[:, -2:]}.items():
        measured = batch_moments(columns, variance=len(rows) > 1, inner_products=inner_products)
        if measured.variance is None:
            measured = measured._replace(variance=torch.zeros_like(measured.mean))
        moments[name] = measured
    return GradientStatistics.from_moments(moments, loss=loss)


def test_vector_of_known_statistics() -> None:
    statistics = record(VECTOR, inner_products=True, loss=2.5)
    assert statistics.batch_size == 8
    assert statistics.loss == 2.5
    assert statistics.mean_sq_norm == pytest.approx(6.05078125, rel=1e-15)
    assert statistics.sum_sq_norms == pytest.approx(207.25, rel=1e-15)
    assert statistics.sq_norms is not None
    assert statistics.inner_products is not None
    assert statistics.mean_gradient is not None
    assert statistics.sq_norms.tolist() == [29.25, 21.25, 33.25, 16.25, 33.25, 25, 18, 31]
    assert statistics.inner_products.tolist() == pytest.approx(
        [8.90625, 5.90625, 8.59375, 0.34375, 9.15625, 3.8125, 3.125, 8.5625], rel=1e-15
    )
    assert statistics.mean_gradient["first"].tolist() == [0.6875, 1.3125, 1.0625]
    assert statistics.mean_gradient["last"].tolist() == [0.8125, 1.4375]
    assert statistics.variance_norm == pytest.approx(22.691964285714285, rel=1e-14)
    assert statistics.inner_product_variance == pytest.approx(10.9620361328125, rel=1e-14)
    assert statistics.orthogonal_variance == pytest.approx(20.880291432260446, rel=1e-14)
    assert statistics.gradient_diversity == pytest.approx(0.5351839896707553, rel=1e-14)
    assert statistics.noise_scale == pytest.approx(22.691964285714285 / 3.2142857142857, rel=1e-12)
    assert statistics.variance_norm == pytest.approx(
        statistics.orthogonal_variance + statistics.inner_product_variance / 6.05078125, rel=1e-14
    )
    assert statistics.variance is not None
    # Var_j = T_j eta² mean_j², with the T_j for eta = 0.5.
    expected = [40.46281, 9.77519, 13.77756, 27.67202, 10.15393]
    found = torch.cat([statistics.variance["first"], statistics.variance["last"]])
    mean = VECTOR.mean(0)
    assert (found / (0.25 * mean.square())).tolist() == pytest.approx(expected, rel=1e-6)
    assert statistics.is_finite


@st.composite
def splits(draw: st.DrawFn) -> list[Tensor]:
    """Gradients of up to 12 samples, cut anywhere."""
    samples, features = draw(st.integers(2, 12)), draw(st.integers(3, 6))
    values = st.floats(-1e3, 1e3, width=64)
    rows = draw(st.lists(values, min_size=samples * features, max_size=samples * features))
    cuts = sorted(draw(st.sets(st.integers(1, samples - 1), min_size=1)))
    matrix = torch.tensor(rows, dtype=torch.float64).view(samples, features)
    return list(matrix.tensor_split(cuts))


@settings(max_examples=60, deadline=None)
@given(splits(), st.booleans())
def test_merged_records_equal_the_record_of_all(parts: list[Tensor], from_the_right: bool) -> None:
    rows = torch.cat(parts)
    records = [record(part, loss=float(part[:, 0].mean())) for part in parts]
    if from_the_right:
        merged = records[-1]
        for left in reversed(records[:-1]):
            merged = left.merge(merged)
    else:
        merged = records[0]
        for right in records[1:]:
            merged = merged.merge(right)
    whole = record(rows, loss=float(rows[:, 0].mean()))
    near = {"rel": 1e-12, "abs": 1e-12 * (1 + float(rows.abs().max()) ** 2)}
    assert merged.batch_size == len(rows)
    assert merged.mean_sq_norm == pytest.approx(whole.mean_sq_norm, **near)
    assert merged.sum_sq_norms == pytest.approx(whole.sum_sq_norms, **near)
    assert merged.variance_norm == pytest.approx(
        float((rows - rows.mean(0)).square().sum()) / (len(rows) - 1),
        rel=1e-9,
        abs=len(rows) * near["abs"],
    )
    assert merged.loss == pytest.approx(whole.loss, **near)
    assert merged.inner_products is None
    assert merged.sum_sq_inner_products is None
    assert merged.sq_norms is not None
    assert torch.equal(merged.sq_norms, whole.sq_norms)
    for field in ("mean_gradient", "variance"):
        merged_tensors, whole_tensors = getattr(merged, field), getattr(whole, field)
        assert merged_tensors.keys() == whole_tensors.keys()
        for name, expected in whole_tensors.items():
            torch.testing.assert_close(merged_tensors[name], expected, rtol=1e-12, atol=near["abs"])


def test_merged_variance_keeps_its_digits_far_from_zero() -> None:
    """A difference of squares would have none left: 1e16 has no room for variances of 1."""
    rows = 1e8 + torch.randn(40, 4, dtype=torch.float64)
    parts = [record(part) for part in rows.split(9)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merged.merge(part)
    assert merged.variance is not None
    found = torch.cat([merged.variance["first"], merged.variance["last"]])
    torch.testing.assert_close(found, rows.var(0), rtol=1e-6, atol=0.0)


def test_merge_keeps_what_both_have() -> None:
    full, bare = record(VECTOR[:3], loss=1.0), record(VECTOR[3:])
    partial = GradientStatistics(
        bare.batch_size, bare.mean_sq_norm, bare.sum_sq_norms, mean_gradient=bare.mean_gradient
    )
    merged = full.merge(partial)
    assert merged.variance is None
    assert merged.sq_norms is None
    assert merged.loss is None
    assert merged.variance_norm == pytest.approx(22.691964285714285, rel=1e-14)


def test_merge_needs_the_means_of_the_same_parameters() -> None:
    whole = record(VECTOR)
    with pytest.raises(MissingStatisticError, match=r"no mean_gradient.*PerSampleGradients"):
        whole.merge(GradientStatistics(2, 1.0, 3.0))
    with pytest.raises(MissingStatisticError, match="no mean_gradient"):
        GradientStatistics(2, 1.0, 3.0).merge(whole)
    other = GradientStatistics.from_moments({"first": batch_moments(VECTOR)})
    with pytest.raises(ValueError, match=r"only one of the two has \['last'\]"):
        whole.merge(other)


def test_what_was_not_measured_is_named_with_its_source() -> None:
    statistics = GradientStatistics(4, 1.0, 8.0)
    for name in ("inner_product_variance", "orthogonal_variance"):
        with pytest.raises(MissingStatisticError, match=r"PerSampleGradients\(\.\.\., inner_prod"):
            getattr(statistics, name)
    assert statistics.variance_norm == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    "name", ["variance_norm", "inner_product_variance", "orthogonal_variance", "noise_scale"]
)
def test_batch_of_one_has_no_variance(name: str) -> None:
    statistics = GradientStatistics(1, 4.0, 4.0, sum_sq_inner_products=16.0)
    assert statistics.gradient_diversity == 1.0
    with pytest.raises(ValueError, match=r"at least two samples.*has one.*keep the"):
        getattr(statistics, name)


def test_rounding_gives_no_negative_variance_and_nan_stays() -> None:
    equal = GradientStatistics(3, 1.0 + 1e-15, 3.0, sum_sq_inner_products=3.0 - 1e-14)
    assert equal.variance_norm == 0.0
    assert equal.inner_product_variance == 0.0
    assert equal.noise_scale == 0.0
    broken = GradientStatistics(3, math.nan, 3.0, sum_sq_inner_products=3.0)
    assert not broken.is_finite
    for name in ("variance_norm", "inner_product_variance", "orthogonal_variance", "noise_scale"):
        assert math.isnan(getattr(broken, name))
    assert not GradientStatistics(3, 1.0, math.inf).is_finite
    assert not GradientStatistics(3, 1.0, 1.0, sum_sq_inner_products=math.inf).is_finite


def test_without_a_mean_gradient_the_ratios_are_infinite() -> None:
    opposite = record(torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]), inner_products=True)
    assert opposite.mean_sq_norm == 0.0
    assert opposite.gradient_diversity == math.inf
    assert opposite.noise_scale == math.inf
    assert GradientStatistics(2, 2.0, 8.0).noise_scale == math.inf  # |G|² is estimated as zero
    assert opposite.orthogonal_variance == opposite.variance_norm == 28.0
    assert opposite.inner_product_variance == 0.0


def test_bad_records() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        GradientStatistics(0, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"same samples, got \{\}"):
        GradientStatistics.from_moments({})
    moments: dict[str, BatchMoments] = {
        "a": batch_moments(VECTOR),
        "b": batch_moments(VECTOR[:5]),
    }
    with pytest.raises(ValueError, match=r"same samples, got \{'a': 8, 'b': 5\}"):
        GradientStatistics.from_moments(moments)
    with pytest.raises(ValueError, match=r"shape \(3,\); accepted is \(8,\)"):
        record(VECTOR).with_inner_products(torch.zeros(3))


def test_from_moments_keeps_what_every_parameter_has() -> None:
    whole, part = batch_moments(VECTOR), batch_moments(VECTOR, variance=False, inner_products=False)
    statistics = GradientStatistics.from_moments({"a": whole, "b": part})
    assert statistics.variance is None
    assert statistics.inner_products is None
    assert statistics.sum_sq_norms == pytest.approx(2 * 207.25)


def test_large_float32_gradients_are_summed_in_float64() -> None:
    rows = torch.randn(2, 600_000) + 1.0
    statistics = GradientStatistics.from_moments(
        {"weight": batch_moments(rows, variance=False, inner_products=False)}
    )
    assert statistics.mean_gradient is not None
    expected = statistics.mean_gradient["weight"].double().square().sum().item()
    # Stretches of some hundred elements add up in float32, as in every kernel.
    assert statistics.mean_sq_norm == pytest.approx(expected, rel=5e-9)
