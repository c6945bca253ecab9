"""halves_cosine: from two micro-batches or two records, and where it is not known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics, MicroBatchGradients


def cosine(first: Tensor, second: Tensor) -> float:
    x, y = first.mean(0), second.mean(0)
    return ((x @ y) / (x.norm() * y.norm())).item()


def record(rows: Tensor) -> GradientStatistics:
    return GradientStatistics.from_moments(
        {
            n: batch_moments(part, variance=False)
            for n, part in (("a", rows[:, :2]), ("b", rows[:, 2:]))
        }
    )


class GradientIsInput(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight


def observed(parts: list[Tensor]) -> GradientStatistics:
    model = GradientIsInput(parts[0].shape[1])
    source = MicroBatchGradients(model)
    samples = sum(map(len, parts))
    for part in parts:
        with source.micro_batch(samples=len(part)):
            (8.0 * model(part).mean() * len(part) / samples).backward()
    return source.result(grad_scale=8.0)


@pytest.mark.parametrize("samples", [1, 3, 20])
def test_of_two_halves(samples: int) -> None:
    first, second = torch.randn(2, samples, 5, dtype=torch.float64)
    expected = pytest.approx(cosine(first, second), abs=1e-12)
    assert record(first).merge(record(second)).halves_cosine == expected
    assert observed([first, second]).halves_cosine == expected


def test_of_halves_that_are_themselves_merged() -> None:
    parts = torch.randn(4, 3, 5, dtype=torch.float64)
    records = [record(part) for part in parts]
    merged = records[0].merge(records[1]).merge(records[2].merge(records[3]))
    expected = cosine(torch.cat(list(parts[:2])), torch.cat(list(parts[2:])))
    assert merged.halves_cosine == pytest.approx(expected, abs=1e-12)


def test_opposite_and_equal_halves_stay_in_range() -> None:
    rows = torch.tensor([[0.1, 0.7, 0.3]] * 3, dtype=torch.float64)
    assert record(rows).merge(record(rows)).halves_cosine == pytest.approx(1.0, abs=1e-15)
    assert record(rows).merge(record(-rows)).halves_cosine == pytest.approx(-1.0, abs=1e-15)
    for scale in (1.0, 1 / 3, 7.0):
        found = record(rows * scale).merge(record(rows)).halves_cosine
        assert found is not None
        assert found <= 1.0
    zeros = record(torch.zeros(3, 3, dtype=torch.float64))
    undefined = zeros.merge(record(rows)).halves_cosine
    assert undefined is not None
    assert math.isnan(undefined)


def test_without_even_halves_it_is_not_known() -> None:
    rows = torch.randn(12, 5, dtype=torch.float64)
    assert record(rows).halves_cosine is None
    assert record(rows[:5]).merge(record(rows[5:])).halves_cosine is None
    halves = record(rows[:6]).merge(record(rows[6:]))
    assert halves.merge(record(rows[:3])).halves_cosine is None
    assert observed(list(rows.split([5, 7]))).halves_cosine is None
    assert observed(list(rows.split(3))).halves_cosine is None
