"""The batch whose test values are published."""

from __future__ import annotations

import pytest
import torch

from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics


@pytest.fixture(scope="session")
def batch() -> GradientStatistics:
    """Eight gradients of five coordinates, as two parameters."""
    rows = torch.tensor(
        [[(3 * i + 5 * j) % 7 - 2 + 0.5 * (i == j) for j in range(5)] for i in range(8)],
        dtype=torch.float64,
    )
    return GradientStatistics.from_moments(
        {"weight": batch_moments(rows[:, :3]), "bias": batch_moments(rows[:, 3:])}
    )
