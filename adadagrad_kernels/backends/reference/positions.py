"""A layer's positions, turned for a product, summed, and multiplied."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels.checks import ACCUMULATION_DTYPES

__all__ = ["row_products", "transpose_positions_"]


def transpose_positions_(values: Tensor, transposed: Tensor | None, sums: Tensor | None) -> None:
    """``[samples, positions, features]`` into ``[samples, features, positions]``, and its sums."""
    if transposed is not None:
        transposed.copy_(values.mT)
    if sums is not None:
        sums.copy_(values.sum(1, dtype=sums.dtype))


def row_products(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each sample's elements in both, which have one shape and dtype."""
    dtype = ACCUMULATION_DTYPES[one.dtype]
    return (one.to(dtype) * other.to(dtype)).flatten(1).sum(1, dtype=torch.float64)
