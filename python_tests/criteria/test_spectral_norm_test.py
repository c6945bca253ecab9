"""SpectralNormTest: its size, what it reads, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from adadagrad_kernels import BatchController, MissingStatisticError
from adadagrad_kernels.criteria import NormTest, SpectralNormTest
from adadagrad_kernels.statistics import GradientStatistics, MicroBatchGradients, SpectralNoise


def record(**matrices: tuple[float, float]) -> GradientStatistics:
    return GradientStatistics(
        batch_size=8,
        mean_sq_norm=2.0,
        sum_sq_norms=72.0,
        spectral={name: SpectralNoise(*values) for name, values in matrices.items()},
    )


def test_matrices_add_up_before_they_are_squared() -> None:
    decision = SpectralNormTest(eta=0.5)(record(first=(6.0, 2.0), second=(4.0, 3.0)))
    assert decision.batch_size == pytest.approx((10 / 5) ** 2 / 0.25)
    assert not decision.passed
    assert decision.smallest_constants == {"eta": pytest.approx(2 / math.sqrt(8))}


def test_of_matrices_of_one_row_it_is_the_norm_test() -> None:
    torch.manual_seed(0)
    model = nn.Linear(9, 1, bias=False).double()
    source = MicroBatchGradients(model, matrices=["weight"])
    for part in torch.randn(24, 9, dtype=torch.float64).split(4):
        with source.micro_batch(samples=4):
            (model(part).square().mean() / 6).backward()
    statistics = source.result()
    size = SpectralNormTest(0.3)(statistics).batch_size
    assert size == pytest.approx(NormTest(0.3)(statistics).batch_size, rel=1e-9)
    assert size > 1


def test_sizes_are_kept_where_the_gradient_vanishes() -> None:
    assert SpectralNormTest(0.5)(record(weight=(1.0, 0.0))).batch_size == 8
    small = GradientStatistics(8, 1e-13, 1.0, spectral={"weight": SpectralNoise(1.0, 1e-7)})
    assert SpectralNormTest(0.5)(small).passed


def test_what_is_not_finite_keeps_the_controllers_size() -> None:
    controller = BatchController(SpectralNormTest(0.5), batch_size=8, max_batch_size=64)
    assert controller.update(record(weight=(math.nan, 1.0))) == 8
    assert controller.nonfinite_steps == 1
    assert controller.update(record(weight=(6.0, 2.0))) == 36


def test_refusals() -> None:
    with pytest.raises(ValueError, match="eta must be a finite number greater than 0, got 0"):
        SpectralNormTest(0.0)
    with pytest.raises(ValueError, match="every matrix, which spectral_norm_test reads: use"):
        BatchController(SpectralNormTest(0.5), batch_size=8, max_batch_size=64, smoothing=0.9)
    with pytest.raises(MissingStatisticError, match=r"MicroBatchGradients\(model, matrices="):
        SpectralNormTest(0.5)(GradientStatistics(8, 1.0, 20.0))
