"""The definition of the moments of normalisations and embeddings.

What is built has at most the size of the layer's activations: contributions to a norm layer are
[samples, features], and a sample contributes to no more rows of an embedding than it looked up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.backends.reference.moments import batch_moments
from adadagrad_kernels.checks import ACCUMULATION_DTYPES

__all__ = [
    "embedding_moments",
    "norm_layer_moments",
]

#: Elements of the activations that are widened and normalised at a time.
_CHUNK_ELEMENTS = 1 << 22


def norm_layer_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """Moments of the samples' contributions to scale and shift, [samples, features] each."""
    scale, shift = _norm_contributions(inputs, grad_outputs, mean, rstd)
    samples = len(scale)
    grad, spread, sq_norms, products = batch_moments(scale, variance, inner_products)
    shift_grad = shift_spread = None
    if bias:
        total, shift_spread, norms, along = batch_moments(shift, variance, inner_products)
        shift_grad, sq_norms = total * samples, sq_norms + norms
        if products is not None and along is not None:
            products = products + along
    if products is not None:
        products = products * samples
    return LayerMoments(grad * samples, shift_grad, sq_norms, spread, shift_spread, products)


def _norm_contributions(
    inputs: Tensor, grad_outputs: Tensor, mean: Tensor | None, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """h_i = (sum_t y_it (x_it - mean) rstd, sum_t y_it), ``[samples, features]`` each."""
    dtype = ACCUMULATION_DTYPES[inputs.dtype]
    samples, positions, features = inputs.shape
    width = features // rstd.shape[2]
    scale, shift = (
        torch.empty(samples, features, dtype=dtype, device=inputs.device) for _ in range(2)
    )
    size = max(1, _CHUNK_ELEMENTS // max(1, positions * features))
    for start in range(0, samples, size):
        rows = slice(start, start + size)
        x, y = inputs[rows].to(dtype), grad_outputs[rows].to(dtype)
        if mean is not None:
            x = x - mean[rows].repeat_interleave(width, 2)
        x = x * rstd[rows].repeat_interleave(width, 2)
        torch.sum(x.mul_(y), 1, out=scale[rows])
        torch.sum(y, 1, out=shift[rows])
    return scale, shift


def embedding_moments(
    indices: Tensor,
    grad_outputs: Tensor,
    num_embeddings: int,
    padding_idx: int,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """h_i has the sum of a sample's output gradients in the row of each index that it looked up.

    A sample's positions are sorted by their index, so that equal ones are neighbours; the sum of
    each run stands at its first position, and zeros at the others.
    """
    dtype = ACCUMULATION_DTYPES[grad_outputs.dtype]
    samples, _, features = grad_outputs.shape
    indices, order = indices.long().sort(stable=True, dim=1)
    places = order.unsqueeze(2).expand_as(grad_outputs)
    rows = grad_outputs.gather(1, places).to(dtype)
    if padding_idx >= 0:
        rows = rows.masked_fill((indices == padding_idx).unsqueeze(2), 0)
    weight_grad = _by_index(rows, indices, num_embeddings)
    first = torch.ones_like(indices, dtype=torch.bool)
    first[:, 1:] = indices[:, 1:] != indices[:, :-1]
    runs = (first.flatten().cumsum(0) - 1).clamp_(min=0)
    lengths = torch.zeros_like(runs).scatter_add_(0, runs, torch.ones_like(runs))
    sums = torch.segment_reduce(
        rows.reshape(-1, features), "sum", lengths=lengths, initial=0, unsafe=True
    )
    sums = sums[runs].view(rows.shape).masked_fill_(~first.unsqueeze(2), 0)
    sq_norms = sums.double().square().sum((1, 2))
    spread = products = None
    if inner_products:
        products = (sums.double() * weight_grad[indices].double()).sum((1, 2))
    if variance:
        mean = weight_grad / samples
        touched = torch.zeros(num_embeddings, dtype=dtype, device=indices.device)
        touched.scatter_add_(0, indices.flatten(), first.flatten().to(dtype))
        apart = (sums - mean[indices]).masked_fill_(~first.unsqueeze(2), 0)
        spread = _by_index(apart.square_(), indices, num_embeddings)
        # The samples that did not look an index up have zeros there.
        spread += mean.square_() * (samples - touched).unsqueeze(1)
        spread /= samples - 1
        if padding_idx >= 0:
            spread[padding_idx] = 0
    return LayerMoments(weight_grad, None, sq_norms, spread, None, products)


def _by_index(rows: Tensor, indices: Tensor, num_embeddings: int) -> Tensor:
    """Rows added up by their index in float64, some features at a time."""
    size = max(1, _CHUNK_ELEMENTS // max(1, num_embeddings))
    backward = torch.ops.aten.embedding_dense_backward
    parts = [
        backward(part.double(), indices, num_embeddings, -1, False).to(rows.dtype)
        for part in torch.split(rows, size, 2)
    ]
    return torch.cat(parts, 1)
