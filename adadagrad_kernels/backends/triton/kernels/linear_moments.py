"""How `linear_moments` cuts a layer, and the launches it is made of: kernels of `_linear.py`."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels import _linear
from adadagrad_kernels.backends.triton.kernels._sums import finish

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

#: Outputs and inputs of a tile, and warps of a program: a thread has 16 coordinates, whose
#: contribution, sum and squares are 48 registers. With 64 outputs Triton 3.7 would put products of
#: narrow elements on sm_100's tensor cores, whatever precision is asked for.
OUT, IN, WARPS = 32, 64, 4
#: Positions at a time; a single one has a kernel of its own.
POSITIONS = 16
#: Samples are split as long as there are fewer programs than ...
PROGRAMS = 256
#: ... and a split has at least so many positions, or its sums would be more bytes than its rows.
FEWEST_POSITIONS = 64
#: Coordinates and warps of a program of `linear_merge_kernel`.
MERGED, MERGED_WARPS = 1024, 4


def linear_moments(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> Outputs:
    """See `backends.reference_layers.linear_moments`."""
    samples, positions, in_features = inputs.shape
    out_features = grad_outputs.shape[2]
    weight = _empty(inputs, out_features, in_features)
    bias_grad = _empty(inputs, out_features if bias else 0)
    sq_norms = torch.empty(samples, dtype=torch.float64, device=inputs.device)
    nothing = weight.new_empty(0)
    spread = torch.empty_like(weight) if variance else nothing
    bias_spread = torch.empty_like(bias_grad) if variance else nothing
    products = torch.empty_like(sq_norms) if inner_products else sq_norms.new_empty(0)
    outputs = (weight, bias_grad, sq_norms, spread, bias_spread, products)
    if out_features == 0 or positions == 0 or (in_features == 0 and not bias):
        for output in outputs:
            output.zero_()
        return outputs
    tiles = triton.cdiv(out_features, OUT) * max(1, triton.cdiv(in_features, IN))
    each = max(
        triton.cdiv(samples, max(1, PROGRAMS // tiles)), triton.cdiv(FEWEST_POSITIONS, positions)
    )
    splits = triton.cdiv(samples, each)
    layer = (
        *(inputs, inputs.stride(0), inputs.stride(1)),
        *(grad_outputs, grad_outputs.stride(0), grad_outputs.stride(1)),
        *(samples, each, positions, in_features, out_features),
    )
    constants = {
        **{"OUT": OUT, "IN": IN, "POSITIONS": 1 if positions == 1 else POSITIONS},
        "VECTOR": _vector(inputs, grad_outputs),
    }
    shares = torch.empty(
        (2 if inner_products else 1, tiles, samples), dtype=torch.float32, device=inputs.device
    )
    sums = [weight, spread, bias_grad, bias_spread]
    parts = [_empty(inputs, splits, tensor.numel()) for tensor in sums] if splits > 1 else sums
    divisor = float(samples - 1) if splits == 1 else 1.0
    arguments = (*layer, parts[0], *map(_or_none, parts[1:]), divisor, shares[0])
    launch(_linear.linear_moments_kernel, (tiles, splits), arguments, constants, WARPS)
    if splits > 1:
        for which in (0, 2):
            _merge(parts[which : which + 2], sums[which : which + 2], splits, samples, each)
    if inner_products:
        arguments = (*layer, weight, _or_none(bias_grad), shares[1])
        launch(_linear.linear_inner_kernel, (tiles, splits), arguments, constants, WARPS)
    finish(shares, (sq_norms, products) if inner_products else (sq_norms,))
    return outputs


def _merge(
    parts: list[Tensor], outputs: list[Tensor], splits: int, samples: int, each: int
) -> None:
    total, spread = outputs
    count = total.numel()
    constants = {"BLOCK": MERGED, "VECTOR": 4 if count % 4 == 0 else 1}
    arguments = (
        *(parts[0], _or_none(parts[1]), count, splits, samples, each),
        *(total, _or_none(spread)),
    )
    grid = (triton.cdiv(count, MERGED),)
    launch(_linear.linear_merge_kernel, grid, arguments, constants, MERGED_WARPS)


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def _or_none(tensor: Tensor) -> Tensor | None:
    return tensor if tensor.numel() else None


def _vector(*sequences: Tensor) -> int:
    """Elements in 16 bytes where all rows begin and end at multiples of 16 bytes, otherwise one.

    The addresses themselves are left to Triton, which compiles one kernel for multiples of 16 bytes
    and one for all others.
    """
    vector = 16 // sequences[0].element_size()
    lengths: list[Any] = [
        length for tensor in sequences for length in (*tensor.stride()[:2], tensor.shape[2])
    ]
    return vector if all(length % vector == 0 for length in lengths) else 1
