"""The ops of single layers in plain torch: every sample's contribution, then its moments.

Written to be read, and part of the reference backend: here the matrix of all contributions is
built, which the kernels of the other backends never do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels.checks import ACCUMULATION_DTYPES

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def linear_moments(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> Outputs:
    """h_i = (sum_t y_it x_it', sum_t y_it) for ``[samples, positions, features]``."""
    inputs, grad_outputs = _accumulated(inputs), _accumulated(grad_outputs)
    weights = torch.bmm(grad_outputs.mT, inputs)
    return _moments(weights, grad_outputs.sum(1), bias, variance, inner_products)


def conv_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> Outputs:
    """A linear layer on the patches of the input, group by group."""
    inputs, grad_outputs = _accumulated(inputs), _accumulated(grad_outputs)
    samples, out_channels = grad_outputs.shape[:2]
    padded = F.pad(inputs, [side for p in reversed(padding) for side in (p, p)])
    patches = padded
    for axis, (kernel, step, spread) in enumerate(
        zip(kernel_size, stride, dilation, strict=True), start=2
    ):
        windows = patches.unfold(axis, spread * (kernel - 1) + 1, step)
        patches = windows[..., ::spread]
    # [samples, groups, channels of a group, positions, kernel elements]
    positions = grad_outputs.shape[2:].numel()
    patches = patches.reshape(samples, groups, -1, positions, torch.Size(kernel_size).numel())
    per_group = grad_outputs.reshape(samples, groups, -1, positions)
    weights = torch.einsum("igop,igcpk->igock", per_group, patches)
    weights = weights.reshape(samples, out_channels, inputs.shape[1] // groups, *kernel_size)
    biases = grad_outputs.flatten(2).sum(2)
    return _moments(weights, biases, bias, variance, inner_products)


def norm_layer_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> Outputs:
    """h_i = (sum_t y_it (x_it - mean) rstd, sum_t y_it), feature by feature."""
    inputs, grad_outputs = _accumulated(inputs), _accumulated(grad_outputs)
    width = inputs.shape[2] // rstd.shape[2]
    centred = inputs if mean is None else inputs - mean.repeat_interleave(width, 2)
    normalized = centred * rstd.repeat_interleave(width, 2)
    weights = (grad_outputs * normalized).sum(1)
    return _moments(weights, grad_outputs.sum(1), bias, variance, inner_products)


def embedding_moments(
    indices: Tensor,
    grad_outputs: Tensor,
    num_embeddings: int,
    padding_idx: int,
    variance: bool,
    inner_products: bool,
) -> Outputs:
    """h_i has the sum of a sample's output gradients in the row of each index."""
    grad_outputs = _accumulated(grad_outputs)
    samples, positions, features = grad_outputs.shape
    weights = grad_outputs.new_zeros(samples, num_embeddings, features)
    rows = indices.long().unsqueeze(2).expand(samples, positions, features)
    weights.scatter_add_(1, rows, grad_outputs)
    if padding_idx >= 0:
        weights[:, padding_idx] = 0
    return _moments(weights, weights.new_empty(samples, 0), False, variance, inner_products)


def _accumulated(tensor: Tensor) -> Tensor:
    return tensor.to(ACCUMULATION_DTYPES[tensor.dtype])


def _moments(
    weights: Tensor, biases: Tensor, bias: bool, variance: bool, inner_products: bool
) -> Outputs:
    """Sums, norms, variances and inner products of ``[samples, ...]``; empty where not asked."""
    samples = len(weights)
    nothing = weights.new_empty(0)
    parts = [weights, biases] if bias else [weights]
    sums = [part.sum(0) for part in parts]
    spreads = [nothing, nothing]
    if variance:
        spreads = [
            (part - total / samples).square().sum(0) / (samples - 1)
            for part, total in zip(parts, sums, strict=True)
        ]
    rows = [part.flatten(1).double() for part in parts]
    sq_norms = torch.stack([row.square().sum(1) for row in rows]).sum(0)
    products = sq_norms.new_empty(0)
    if inner_products:
        products = torch.stack(
            [row @ total.flatten().double() for row, total in zip(rows, sums, strict=True)]
        ).sum(0)
    if not bias:
        sums, spreads = [*sums, nothing], [spreads[0], nothing]
    return sums[0], sums[1], sq_norms, spreads[0], spreads[1], products
