"""MicroBatchGradients: the estimate's expectation, its published values, and its guards."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics import GradientStatistics, MicroBatchGradients


class GradientIsInput(nn.Module):
    """The gradient of the mean output is the mean input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(features - 1, dtype=torch.float64))
        self.last = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ torch.cat([self.first, self.last[None]])


def estimate(parts: list[Tensor], loss_scale: float = 1.0) -> GradientStatistics:
    """The record of micro-batches with these per-sample gradients."""
    model = GradientIsInput(parts[0].shape[1])
    source = MicroBatchGradients(model)
    samples = sum(map(len, parts))
    for part in parts:
        with source.micro_batch(samples=len(part)):
            (loss_scale * model(part).mean() * len(part) / samples).backward()
    return source.result(grad_scale=loss_scale)


def test_four_workers_with_two_samples_each() -> None:
    rows = torch.tensor(
        [[(3 * i + 5 * j) % 7 - 2 + 0.5 * (i == j) for j in range(5)] for i in range(8)],
        dtype=torch.float64,
    )
    for loss_scale in (1.0, 65536.0):
        statistics = estimate(list(rows.split(2)), loss_scale)
        assert statistics.batch_size == 8
        assert statistics.mean_sq_norm == pytest.approx(6.05078125, rel=1e-14)
        assert statistics.variance_norm == pytest.approx(11.572916666666668, rel=1e-14)
        assert statistics.variance_norm / (0.25 * 6.05078125) == pytest.approx(7.65053, rel=1e-6)


def test_micro_batches_of_one_sample_give_the_exact_variance() -> None:
    rows = torch.randn(6, 4, dtype=torch.float64)
    statistics = estimate(list(rows.split(1)))
    assert statistics.variance_norm == pytest.approx(rows.var(0).sum().item(), rel=1e-12)
    assert statistics.sum_sq_norms == pytest.approx(rows.square().sum().item(), rel=1e-12)


@pytest.mark.parametrize("sizes", [(2, 2), (1, 2), (1, 3), (1, 1, 2)], ids=str)
def test_estimate_is_unbiased(sizes: tuple[int, ...]) -> None:
    """Its mean over every batch that can be drawn from three samples, with replacement."""
    population = torch.tensor([[1.0, 0.5], [-2.0, 3.0], [0.25, -1.0]], dtype=torch.float64)
    variances, sums = [], []
    for drawn in itertools.product(range(3), repeat=sum(sizes)):
        statistics = estimate(list(population[list(drawn)].split(sizes)))
        variances.append(statistics.variance_norm)
        sums.append(statistics.sum_sq_norms)
    expected = population.var(0, unbiased=False).sum().item()
    assert sum(variances) / len(variances) == pytest.approx(expected, rel=1e-10)
    expected = sum(sizes) * population.square().sum(1).mean().item()
    assert sum(sums) / len(sums) == pytest.approx(expected, rel=1e-10)


def test_training_itself_is_observed_and_left_alone() -> None:
    torch.manual_seed(3)
    # GELU, since two computations through a ReLU may fall on its two sides.
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.GELU(), nn.Linear(6, 2))
    batch = torch.randn(12, 4)
    source = MicroBatchGradients(model)
    alone = []
    for part in batch.split(4):
        model.zero_grad()
        model(part).square().mean().backward()
        alone.append(torch.cat([p.grad.flatten() for p in model.parameters()]).double())
    model.zero_grad()
    for part in batch.split(4):
        with source.micro_batch(samples=4):
            (model(part).square().mean() / 3).backward()
    rows = torch.stack(alone)
    found = torch.cat([p.grad.flatten() for p in model.parameters()]).double()
    torch.testing.assert_close(found, rows.mean(0), rtol=1e-5, atol=1e-7)
    statistics = source.result()
    assert statistics.variance_norm == pytest.approx(4 * rows.var(0).sum().item(), rel=1e-4)
    assert statistics.mean_sq_norm == pytest.approx(rows.mean(0).square().sum().item(), rel=1e-5)
    assert statistics.mean_gradient is None
    assert not any(p._backward_hooks for p in model.parameters())


def test_sparse_gradients_with_repeated_indices() -> None:
    model = nn.Embedding(5, 3, sparse=True).double()
    batches = [torch.tensor([[0, 1], [1, 1]]), torch.tensor([[2, 1], [4, 4]])]
    dense = []
    for tokens in batches:
        model.zero_grad()
        model(tokens).sum(1).square().mean().backward()
        dense.append(model.weight.grad.to_dense().flatten())
    model.zero_grad()
    source = MicroBatchGradients(model)
    for tokens in batches:
        with source.micro_batch(samples=2):
            (model(tokens).sum(1).square().mean() / 2).backward()
    rows = torch.stack(dense)
    assert source.result().variance_norm == pytest.approx(2 * rows.var(0).sum().item(), rel=1e-12)


def test_a_failed_micro_batch_is_not_counted() -> None:
    model = GradientIsInput(3)
    source = MicroBatchGradients(model)
    rows = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(ArithmeticError), source.micro_batch(samples=2):
        raise ArithmeticError
    for part in rows.split(2):
        with source.micro_batch(samples=2):
            (model(part).mean() / 2).backward()
    with pytest.raises(ValueError, match=r"no gradient reached"), source.micro_batch(samples=2):
        pass
    assert source.result().batch_size == 4
    assert not any(p._backward_hooks for p in model.parameters())


def test_bad_steps() -> None:
    model = GradientIsInput(3)
    source = MicroBatchGradients(model)
    rows = torch.randn(4, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        source.micro_batch(samples=0).__enter__()
    with source.micro_batch(samples=4):
        model(rows).mean().backward()
        with pytest.raises(ValueError, match="second gradient within one micro_batch"):
            model(rows).mean().backward()
    source.reset()
    with (
        pytest.raises(ValueError, match=r"left in \.grad.*zero_grad"),
        source.micro_batch(samples=4),
    ):
        model(rows).mean().backward()
    model.zero_grad(set_to_none=False)
    with source.micro_batch(samples=4):
        model(rows).mean().backward()
    gradient = model.first.grad.clone()
    with pytest.raises(ValueError, match="at least two of them, got 1"):
        source.result()
    torch.testing.assert_close(model.first.grad, gradient)
    with pytest.raises(ValueError, match="got 0"):
        source.result()
