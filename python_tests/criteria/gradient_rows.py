"""Records and sources for the tests of criteria, from rows of per-sample gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics, MicroBatchGradients


def record(rows: Tensor, loss: float | None = None) -> GradientStatistics:
    """Of which the last column is a parameter of its own."""
    moments = {"a": batch_moments(rows[:, :-1]), "b": batch_moments(rows[:, -1:])}
    return GradientStatistics.from_moments(moments, loss=loss)


class GradientIsInput(nn.Module):
    """The gradient of the mean output is the mean input."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return rows @ self.weight


def observed(parts: list[Tensor]) -> GradientStatistics:
    """What MicroBatchGradients says of micro-batches with these gradients."""
    model = GradientIsInput(parts[0].shape[1])
    source = MicroBatchGradients(model)
    samples = sum(map(len, parts))
    for part in parts:
        with source.micro_batch(samples=len(part)):
            (model(part).mean() * len(part) / samples).backward()
    return source.result()
