"""What holds for every test: published values aside, their constants, guards and bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adadagrad_kernels.criteria import (
    AugmentedInnerProductTest,
    BatchSizeCriterion,
    CoordinateNormTest,
    InnerProductTest,
    MetricNormTest,
    NormTest,
)
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics


def layerwise(theta: float, nu: float) -> AugmentedInnerProductTest:
    return AugmentedInnerProductTest(theta, nu, layerwise=True)


def sign(eta: float) -> MetricNormTest:
    return MetricNormTest(eta, "sign")


CRITERIA: list[tuple[Any, list[str]]] = [
    (NormTest, ["eta"]),
    (InnerProductTest, ["theta"]),
    (AugmentedInnerProductTest, ["theta", "nu"]),
    (CoordinateNormTest, ["eta"]),
    (layerwise, ["theta", "nu"]),
    (sign, ["eta"]),
]
every_criterion = pytest.mark.parametrize(
    ("kind", "constants"), CRITERIA, ids=[kind.__name__ for kind, _ in CRITERIA]
)


def build(kind: Any, constants: list[str], value: float = 0.5) -> BatchSizeCriterion:
    criterion: BatchSizeCriterion = kind(**dict.fromkeys(constants, value))
    return criterion


@every_criterion
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), samples=st.integers(2, 9), spread=st.floats(0.01, 10))
def test_smallest_constants_just_pass(
    kind: Any, constants: list[str], seed: int, samples: int, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = 1 + spread * torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    statistics = GradientStatistics.from_moments({"weight": batch_moments(rows)})
    smallest = build(kind, constants)(statistics).smallest_constants
    assert list(smallest) == constants
    assert kind(**{name: value * (1 + 1e-9) for name, value in smallest.items()})(statistics).passed
    for name in constants:
        tighter = {**smallest, name: smallest[name] * (1 - 1e-9)}
        decision = kind(**tighter)(statistics)
        assert not decision.passed
        assert decision.batch_size > samples


@every_criterion
@pytest.mark.parametrize("value", [0.0, -0.1, math.inf, math.nan])
def test_constants_out_of_range(kind: Any, constants: list[str], value: float) -> None:
    for name in constants:
        with pytest.raises(
            ValueError, match=rf"{name} must be a finite number greater than 0, got"
        ):
            kind(**{**dict.fromkeys(constants, 0.5), name: value})


@every_criterion
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_non_finite_statistics_give_nan_and_no_error(
    kind: Any, constants: list[str], value: float
) -> None:
    rows = torch.ones(4, 5)
    rows[1, 2] = value
    statistics = GradientStatistics.from_moments({"weight": batch_moments(rows)})
    assert not statistics.is_finite
    decision = build(kind, constants)(statistics)
    assert math.isnan(decision.batch_size)
    assert not decision.passed


@every_criterion
def test_vanishing_mean_keeps_the_size(kind: Any, constants: list[str]) -> None:
    rows = 1e-8 * torch.tensor([[1.0, 2.0], [-1.0, -1.0], [3.0, -2.0]], dtype=torch.float64)
    statistics = GradientStatistics.from_moments({"weight": batch_moments(rows)})
    decision = build(kind, constants)(statistics)
    assert decision.batch_size == 3.0
    assert decision.passed
    assert decision.smallest_constants == dict.fromkeys(constants, 0.0)


@every_criterion
def test_small_constants_ask_for_infinite_batches(
    kind: Any, constants: list[str], batch: GradientStatistics
) -> None:
    decision = build(kind, constants, 1e-200)(batch)
    assert decision.batch_size == math.inf
    assert not decision.passed


@every_criterion
def test_equal_gradients_pass_with_nothing(kind: Any, constants: list[str]) -> None:
    statistics = GradientStatistics.from_moments({"weight": batch_moments(torch.ones(4, 5))})
    decision = build(kind, constants, 1e-3)(statistics)
    assert decision.batch_size == 0.0
    assert decision.passed


@every_criterion
def test_batch_of_one(kind: Any, constants: list[str]) -> None:
    one = batch_moments(torch.ones(1, 3), variance=False)
    one = one._replace(variance=torch.zeros(3))
    statistics = GradientStatistics.from_moments({"weight": one})
    with pytest.raises(ValueError, match=r"at least two samples.*keep the batch size"):
        build(kind, constants)(statistics)


@every_criterion
def test_flags_say_what_is_needed(
    kind: Any, constants: list[str], batch: GradientStatistics
) -> None:
    criterion = build(kind, constants)
    expected = criterion(batch)
    assert expected.criterion == criterion.name
    if not criterion.needs_inner_products:
        batch = replace(batch, inner_products=None, sum_sq_inner_products=None)
    if not criterion.needs_variance:
        batch = replace(batch, variance=None)
    assert criterion(batch) == expected
    if criterion.needs_inner_products:
        with pytest.raises(MissingStatisticError, match="inner_products=True"):
            criterion(replace(batch, sum_sq_inner_products=None))
    if criterion.needs_variance:
        with pytest.raises(MissingStatisticError, match="variance=True"):
            criterion(replace(batch, variance=None))
