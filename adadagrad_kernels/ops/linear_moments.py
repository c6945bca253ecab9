"""Gradient and statistics of a linear layer from its inputs and output gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.checks import check_layer_tensors
from adadagrad_kernels.ops import _linear_forms
from adadagrad_kernels.ops._layer_moments import (
    as_given,
    from_schema,
    moments_of_nothing,
)
from adadagrad_kernels.ops._library import register


def linear_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    *,
    bias: bool = True,
    variance: bool = False,
    inner_products: bool = False,
) -> LayerMoments:
    r"""Weight gradient of a linear layer, and the statistics of its samples' contributions.

    With inputs :math:`x_{it}` and output gradients :math:`y_{it}` of sample i at position t,

    .. math::
        h_i = \Bigl(\sum_t y_{it} x_{it}^\top,\; \sum_t y_{it}\Bigr), \qquad
        \text{grad} = \sum_i h_i, \qquad s_i = \lVert h_i \rVert^2, \qquad
        p_i = \Bigl\langle h_i, \sum_j h_j \Bigr\rangle,

    and the variance of every coordinate of :math:`h_i`. The matrix of all :math:`h_i` is never
    built: with one position a norm is a product of norms (Goodfellow 2015, arXiv 1510.01799), with
    few the sum over :math:`t, t'` of :math:`(x_{it}^\top x_{it'})(y_{it}^\top y_{it'})` (ghost
    norms: Li, Tramer, Liang, Hashimoto 2022, arXiv 2110.05679), and else some of the contributions
    at a time are added to all sums while they are in cache. Products are the vendor's (MKL,
    oneDNN, cuBLAS), in the type of the tensors.

    Args:
        inputs: ``[samples, ..., in_features]`` in float32, bfloat16, float16 or float64; the
            elements of a row are adjacent.
        grad_outputs: the gradient of the loss by the layer's outputs,
            ``[samples, ..., out_features]``, of the same dtype.
        bias: whether the layer has a bias whose gradient counts.
        variance: whether to measure the variance of every coordinate.
        inner_products: whether to measure the inner products.

    Returns:
        ``LayerMoments`` with a weight gradient ``[out_features, in_features]``.

    Raises:
        ValueError: for tensors of different devices, dtypes or leading dimensions, without
            samples, of another layout, or only one sample where a variance is asked.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import linear_moments
        >>> inputs, grad_outputs = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.ones(2, 1)
        >>> moments = linear_moments(inputs, grad_outputs)
        >>> moments.weight_grad, moments.bias_grad, moments.sq_norms
        (tensor([[4., 2.]]), tensor([2.]), tensor([ 6., 10.], dtype=torch.float64))
    """
    asked = (bias, variance, inner_products)
    if torch.compiler.is_compiling():
        return from_schema(_operator(inputs, grad_outputs, *asked), *asked)
    return _run(inputs, grad_outputs, *asked)


def _run(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> LayerMoments:
    check_layer_tensors(inputs, grad_outputs, variance=variance)
    if inputs.shape[:-1] != grad_outputs.shape[:-1]:
        raise ValueError(
            f"inputs has shape {tuple(inputs.shape)} and grad_outputs {tuple(grad_outputs.shape)}; "
            "all dimensions but the last must agree"
        )
    x, y = _sequences(inputs), _sequences(grad_outputs)
    asked = (bias, variance, inner_products)
    if not x.numel() or not y.numel():
        return moments_of_nothing(y, 1, (y.shape[2], x.shape[2]), *asked)
    with as_given(inputs.device):
        return _linear_forms.linear_moments(x, y, *asked)


def _sequences(tensor: Tensor) -> Tensor:
    """``[samples, positions, features]``, a view where possible; adjacent features."""
    samples, *positions, features = tensor.shape
    sequences = tensor.detach().reshape(samples, torch.Size(positions).numel(), features)
    adjacent = features <= 1 or sequences.stride(2) == 1
    return sequences if adjacent else sequences.contiguous()


def _fake(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> LayerMoments:
    shape = (grad_outputs.shape[-1], inputs.shape[-1])
    bias_size = shape[0] if bias else None
    return LayerMoments.empty(grad_outputs, shape, bias_size, variance, inner_products)


_operator = register(
    "linear_moments(Tensor inputs, Tensor grad_outputs, bool bias, bool variance, "
    "bool inner_products) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
