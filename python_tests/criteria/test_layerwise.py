"""The inner-product tests summed over the parameters, as in the published code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adadagrad_kernels.criteria import AugmentedInnerProductTest, InnerProductTest
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics, PerSampleGradients

N, V_IP, V_ORTH = 6.05078125, 16.280604771205358, 17.14145730649406


def test_published_values(batch: GradientStatistics) -> None:
    ip = InnerProductTest(0.5, layerwise=True)(batch)
    assert ip.batch_size == pytest.approx(V_IP / (0.25 * N * N), rel=1e-14)
    both = AugmentedInnerProductTest(0.5, 0.5, layerwise=True)(batch)
    assert both.batch_size == pytest.approx(V_ORTH / (0.25 * N), rel=1e-13)
    tight = AugmentedInnerProductTest(0.1, 0.9, layerwise=True)(batch)
    assert tight.batch_size == pytest.approx(V_IP / (0.01 * N * N), rel=1e-14)
    assert tight.smallest_constants["theta"] == pytest.approx((V_IP / (8 * N * N)) ** 0.5)
    assert InnerProductTest(0.5)(batch).batch_size == pytest.approx(1.19765, abs=5e-6)


def test_one_parameter_is_the_whole_gradient() -> None:
    rows = torch.randn(6, 5, dtype=torch.float64)
    statistics = GradientStatistics.from_moments({"weight": batch_moments(rows)})
    for theta, nu in ((0.1, 0.9), (0.9, 0.1)):
        whole = AugmentedInnerProductTest(theta, nu)(statistics)
        parts = AugmentedInnerProductTest(theta, nu, layerwise=True)(statistics)
        assert parts.batch_size == pytest.approx(whole.batch_size, rel=1e-13)


def test_variance_across_is_at_most_that_of_the_whole() -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(5, 9, generator=generator, dtype=torch.float64)
        statistics = GradientStatistics.from_moments(
            {str(k): batch_moments(part) for k, part in enumerate(rows.split(3, 1))}
        )
        parts = statistics.require_by_parameter().values()
        assert sum(part.orthogonal_variance for part in parts) <= statistics.orthogonal_variance


def test_a_parameter_without_gradient_adds_nothing(batch: GradientStatistics) -> None:
    rows = torch.randn(4, 3, dtype=torch.float64)
    alone = GradientStatistics.from_moments({"a": batch_moments(rows)})
    unused = batch_moments(torch.zeros(4, 2, dtype=torch.float64))
    beside = GradientStatistics.from_moments({"a": batch_moments(rows), "unused": unused})
    test = AugmentedInnerProductTest(0.5, 0.5, layerwise=True)
    assert test(beside).batch_size == pytest.approx(test(alone).batch_size, rel=1e-14)


def test_sources_that_keep_the_parameters(batch: GradientStatistics) -> None:
    model = torch.nn.Linear(3, 2).double()
    source = PerSampleGradients(model, torch.nn.functional.mse_loss, inner_products=True)
    inputs, targets = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    record = source.backward(inputs, targets)
    assert list(record.require_by_parameter()) == ["weight", "bias"]
    assert sum(p.sum_sq_norms for p in record.require_by_parameter().values()) == pytest.approx(
        record.sum_sq_norms, rel=1e-13
    )
    source.chunk_size = 2
    chunked = source.backward(inputs, targets)
    assert chunked.inner_products is not None
    for criterion in (InnerProductTest(0.5, layerwise=True), AugmentedInnerProductTest(1, 1, True)):
        criterion(record)
        for lacking in (chunked, replace(batch, by_parameter=None)):
            with pytest.raises(MissingStatisticError, match=r"from_moments.*PerSampleGradients"):
                criterion(lacking)
        unmeasured = replace(batch, sum_sq_inner_products=None, by_parameter=None)
        with pytest.raises(MissingStatisticError, match="inner_products=True"):
            criterion(unmeasured)
    assert batch.merge(batch).by_parameter is None
    assert batch.with_inner_products(torch.zeros(8)).by_parameter is None
