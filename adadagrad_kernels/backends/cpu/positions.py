"""A layer's positions on the CPU: turned for a product, summed, and multiplied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels import _native
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import address

__all__ = ["row_products", "transpose_positions_"]

_C: Any = _native.C  # None only where `unavailable` says so


def transpose_positions_(values: Tensor, transposed: Tensor | None, sums: Tensor | None) -> None:
    """``[samples, positions, features]`` turned and summed; features that are apart are copied."""
    if values.stride(2) != 1:
        values = values.contiguous()
    _C.transpose_positions(
        address(values),
        TYPE_CODES[values.dtype],
        values.shape,
        values.stride()[:2],
        0 if transposed is None else address(transposed),
        0 if sums is None else address(sums),
        torch.get_num_threads(),
    )
    increment_version([tensor for tensor in (transposed, sums) if tensor is not None])


def row_products(one: Tensor, other: Tensor) -> Tensor:
    """The inner product of each sample's elements in both, which have one shape and dtype."""
    one, other = one.contiguous(), other.contiguous()
    products = torch.empty(len(one), dtype=torch.float64, device=one.device)
    _C.row_products(
        address(one),
        address(other),
        TYPE_CODES[one.dtype],
        len(one),
        one.numel() // max(1, len(one)),
        address(products),
        torch.get_num_threads(),
    )
    return products
