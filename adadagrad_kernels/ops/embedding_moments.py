"""Gradient and statistics of an embedding, from the rows that each sample looked up."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.checks import check_grad_outputs, require_plain
from adadagrad_kernels.ops._layer_moments import from_schema, moments_of_nothing
from adadagrad_kernels.ops._library import register


def embedding_moments(
    indices: Tensor,
    grad_outputs: Tensor,
    num_embeddings: int,
    *,
    padding_idx: int | None = None,
    variance: bool = False,
    inner_products: bool = False,
) -> LayerMoments:
    r"""Weight gradient of an embedding, and the statistics of its samples' contributions.

    With the index :math:`n_{it}` that sample i looked up at position t and output gradients
    :math:`y_{it}`,

    .. math::
        h_{i,v} = \sum_{t:\, n_{it} = v} y_{it},

    and the gradient, norms, inner products and variance of :func:`linear_moments`. A sample has a
    row for each index that it looked up and zeros elsewhere; these are not written out.

    Args:
        indices: ``[samples, ...]``, int64 or int32.
        grad_outputs: the gradient of the loss by the layer's outputs, ``[samples, ..., features]``
            in float32, bfloat16, float16 or float64; the elements of a row are adjacent.
        num_embeddings: rows of the weight.
        padding_idx: a row that has no gradient; from 0.
        variance: whether to measure the variance of every coordinate.
        inner_products: whether to measure the inner products.

    Returns:
        ``LayerMoments`` with a weight gradient ``[num_embeddings, features]``, and no bias.

    Raises:
        ValueError: for tensors of different devices or leading dimensions, other dtypes or
            layouts, no samples, indices outside of the weight, or only one sample where a variance
            is asked.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import embedding_moments
        >>> indices = torch.tensor([[0, 0], [0, 2]])
        >>> moments = embedding_moments(indices, torch.ones(2, 2, 1), 3)
        >>> moments.weight_grad.flatten(), moments.sq_norms
        (tensor([3., 0., 1.]), tensor([4., 2.], dtype=torch.float64))
    """
    padding = -1 if padding_idx is None else padding_idx
    arguments = (indices, grad_outputs, num_embeddings, padding, variance, inner_products)
    if torch.compiler.is_compiling():
        return from_schema(_operator(*arguments), False, variance, inner_products)
    return _run(*arguments)


def _run(
    indices: Tensor,
    grad_outputs: Tensor,
    num_embeddings: int,
    padding_idx: int,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    check_grad_outputs(grad_outputs, variance=variance)
    require_plain("indices", indices)
    if indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"indices has dtype {indices.dtype}; accepted are int64 and int32")
    if indices.device != grad_outputs.device or indices.shape != grad_outputs.shape[:-1]:
        raise ValueError(
            f"indices is {tuple(indices.shape)} on {indices.device} and grad_outputs "
            f"{tuple(grad_outputs.shape)} on {grad_outputs.device}; devices and all dimensions but "
            "the last must agree"
        )
    if not -1 <= padding_idx < num_embeddings:
        raise ValueError(
            f"padding_idx must be None or from 0 to {num_embeddings - 1}, got {padding_idx}"
        )
    if indices.device.type == "cpu" and indices.numel():
        low, high = torch.aminmax(indices)
        if low < 0 or high >= num_embeddings:
            raise ValueError(
                f"indices run from {int(low)} to {int(high)}; accepted are 0 to "
                f"{num_embeddings - 1}, the rows of the weight"
            )
    samples, features = len(grad_outputs), grad_outputs.shape[-1]
    if not grad_outputs.numel():
        rows = grad_outputs.reshape(samples, indices.shape[1:].numel(), features)
        shape = (num_embeddings, features)
        return moments_of_nothing(rows, 1, shape, False, variance, inner_products)
    backend = backends.select(grad_outputs.device, grad_outputs.dtype, "embedding_moments")
    moments: LayerMoments = backend.embedding_moments(
        indices.reshape(samples, -1),
        grad_outputs.detach().reshape(samples, indices.shape[1:].numel(), features),
        num_embeddings,
        padding_idx,
        variance,
        inner_products,
    )
    return moments


def _fake(
    indices: Tensor,
    grad_outputs: Tensor,
    num_embeddings: int,
    padding_idx: int,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    shape = (num_embeddings, grad_outputs.shape[-1])
    return LayerMoments.empty(grad_outputs, shape, None, variance, inner_products)


_operator = register(
    "embedding_moments(Tensor indices, Tensor grad_outputs, int num_embeddings, int padding_idx, "
    "bool variance, bool inner_products) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
