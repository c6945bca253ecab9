"""What AdaBatch's aggregate is in expectation, by simulation."""

from __future__ import annotations

import pytest
import torch

from adadagrad_kernels.ops import sparse_mean_step_


def test_preconditions_by_how_often_a_feature_occurs() -> None:
    """E d_j = (1 - (1 - p)^B) / p of the gradient's mean p; here of a gradient that is 1."""
    batch, batches = 50, 20_000
    probabilities = torch.tensor([0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    wanted = (1 - (1 - probabilities) ** batch) / probabilities
    assert wanted.tolist() == pytest.approx([39.5, 9.95, 2, 1], abs=0.006)
    # All batches in one: their features side by side.
    present = torch.rand(batch, batches, 4) < probabilities
    steps, means = torch.zeros(2, batches, 4)
    sparse_mean_step_(steps, present.float().flatten(1), lr=-1)
    sparse_mean_step_(means, present.float().flatten(1), lr=-1, mode="mean")
    torch.testing.assert_close(means.double().mean(0), probabilities, rtol=0.03, atol=0)
    factor = steps.double().mean(0) / probabilities
    error = 4 * (steps.double().var(0) / batches).sqrt() / probabilities
    assert ((factor - wanted).abs() <= error + 1e-6).all()


def test_ridge_is_that_of_the_whole_weight_in_expectation() -> None:
    batch, batches = 40, 4000
    probabilities = torch.tensor([0.02, 0.3, 1.0]).repeat(batches, 1)
    present = (torch.rand(batch, batches, 3) < probabilities).float()
    # Two samples that cancel leave the ridge alone, but touch.
    present[1::2] *= -1
    weight = torch.tensor([2.0, -3.0, 5.0]).repeat(batches, 1)
    before = weight.clone()
    sparse_mean_step_(
        weight, present.flatten(1), lr=-1, mode="mean", ridge=0.1,
        probabilities=probabilities.flatten(),
    )  # fmt: skip
    mean = (weight - before).mean(0)
    error = 5 * ((weight - before).var(0) / batches).sqrt()
    assert ((mean - 0.1 * before[0]).abs() <= error + 1e-5).all()
