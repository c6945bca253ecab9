"""Normalisations and embeddings on the CPU, whose samples contribute rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import _native
from adadagrad_kernels.backends.outputs import LayerMoments, addresses
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import address

__all__ = [
    "embedding_moments",
    "norm_layer_moments",
]

_C: Any = _native.C  # None only where `unavailable` says so


def norm_layer_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """Gradient and statistics of scale and shift; other layouts than the kernels' are copied."""
    samples, positions, features = inputs.shape
    by_feature = rstd.shape[1] != positions or rstd.shape[2] != 1
    inputs, grad_outputs, adjacent = _adjacent(inputs, grad_outputs, by_feature)
    if by_feature:
        rstd = _per_feature(rstd, features)
        mean = None if mean is None else _per_feature(mean, features)
    else:
        rstd = rstd.contiguous()
        mean = None if mean is None else mean.contiguous()
    bias_size = features if bias else None
    moments = LayerMoments.empty(inputs, (features,), bias_size, variance, inner_products)
    other = 2 if adjacent else 1
    _C.norm_layer_moments(
        address(inputs),
        address(grad_outputs),
        TYPE_CODES[inputs.dtype],
        samples,
        positions,
        features,
        adjacent,
        inputs.stride(0),
        inputs.stride(other),
        grad_outputs.stride(0),
        grad_outputs.stride(other),
        by_feature,
        0 if mean is None else address(mean),
        address(rstd),
        *addresses(moments),
        torch.get_num_threads(),
    )
    return moments


def embedding_moments(
    indices: Tensor,
    grad_outputs: Tensor,
    num_embeddings: int,
    padding_idx: int,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """Weight gradient and statistics of an embedding; its indices have been checked."""
    samples, positions, features = grad_outputs.shape
    indices = indices.long().contiguous()
    if features > 1 and grad_outputs.stride(2) != 1:
        grad_outputs = grad_outputs.contiguous()
    shape = (num_embeddings, features)
    moments = LayerMoments.empty(grad_outputs, shape, None, variance, inner_products)
    weight_grad, _, sq_norms, weight_variance, _, products = addresses(moments)
    _C.embedding_moments(
        address(indices),
        address(grad_outputs),
        TYPE_CODES[grad_outputs.dtype],
        samples,
        positions,
        features,
        grad_outputs.stride(0),
        grad_outputs.stride(1),
        num_embeddings,
        padding_idx,
        weight_grad,
        weight_variance,
        sq_norms,
        products,
        torch.get_num_threads(),
    )
    return moments


def _adjacent(
    inputs: Tensor, grad_outputs: Tensor, by_feature: bool
) -> tuple[Tensor, Tensor, bool]:
    """Both in a layout of the kernels, and whether it is positions that are adjacent."""

    def are(axis: int, tensor: Tensor) -> bool:
        return tensor.shape[axis] == 1 or tensor.stride(axis) == 1

    both = (inputs, grad_outputs)
    if all(are(2, tensor) for tensor in both):
        return *both, False
    if by_feature and are(1, inputs):
        return inputs, grad_outputs if are(1, grad_outputs) else _transposed(grad_outputs), True
    return inputs.contiguous(), grad_outputs.contiguous(), False


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT


def _per_feature(statistic: Tensor, features: int) -> Tensor:
    """One for each feature, of ``[samples, 1, groups]``."""
    return statistic.repeat_interleave(features // statistic.shape[2], 2)
