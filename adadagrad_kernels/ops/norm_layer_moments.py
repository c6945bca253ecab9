"""Gradient and statistics of the scale and shift of LayerNorm, RMSNorm and GroupNorm."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.checks import check_layer_tensors, require_plain
from adadagrad_kernels.ops._layer_moments import from_schema
from adadagrad_kernels.ops._library import register


def norm_layer_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    *,
    bias: bool = True,
    variance: bool = False,
    inner_products: bool = False,
) -> LayerMoments:
    r"""Gradient of a normalisation's scale and shift, and the statistics of its samples.

    With inputs x, output gradients y and :math:`\hat x = (x - \mathrm{mean})\, \mathrm{rstd}`,

    .. math::
        h_{i,f} = \Bigl(\sum_t y_{itf}\, \hat x_{itf},\; \sum_t y_{itf}\Bigr),

    and the gradient, norms, inner products and variance of :func:`linear_moments`.

    Args:
        inputs: what is normalised, ``[samples, positions, features]``, in float32, bfloat16,
            float16 or float64, with any strides.
        grad_outputs: the gradient of the loss by the layer's outputs, of the same shape and dtype.
        mean: ``[samples, positions, 1]`` for LayerNorm, ``[samples, 1, groups]`` for GroupNorm,
            whose groups are equal runs of features; None for RMSNorm.
        rstd: one over the deviation, of the shape of ``mean``; ``[samples, positions, 1]`` for
            RMSNorm. Both in float32, or float64 for float64 inputs.
        bias: whether the layer has a shift whose gradient counts.
        variance: whether to measure the variance of every coordinate.
        inner_products: whether to measure the inner products.

    Returns:
        ``LayerMoments`` with gradients ``[features]``.

    Raises:
        ValueError: for tensors of different devices, dtypes or shapes, without samples, of another
            layout, or only one sample where a variance is asked.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import norm_layer_moments
        >>> inputs = torch.tensor([[[1.0, 3.0]], [[2.0, 2.5]]])
        >>> mean, rstd = inputs.mean(2, keepdim=True), 1 / inputs.std(2, correction=0, keepdim=True)
        >>> norm_layer_moments(inputs, torch.ones(2, 1, 2), mean, rstd).weight_grad
        tensor([-2.,  2.])
    """
    tensors, asked = (inputs, grad_outputs, mean, rstd), (bias, variance, inner_products)
    if torch.compiler.is_compiling():
        return from_schema(_operator(*tensors, *asked), *asked)
    return _run(*tensors, *asked)


def _run(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    check_layer_tensors(inputs, grad_outputs, variance=variance)
    if inputs.dim() != 3 or inputs.shape != grad_outputs.shape:
        raise ValueError(
            "inputs and grad_outputs must be [samples, positions, features] alike, got "
            f"{tuple(inputs.shape)} and {tuple(grad_outputs.shape)}"
        )
    _check_statistics(inputs, mean, rstd)
    backend = backends.select(inputs.device, inputs.dtype, "norm_layer_moments")
    moments: LayerMoments = backend.norm_layer_moments(
        inputs.detach(),
        grad_outputs.detach(),
        None if mean is None else mean.detach(),
        rstd.detach(),
        bias,
        variance,
        inner_products,
    )
    return moments


def _check_statistics(inputs: Tensor, mean: Tensor | None, rstd: Tensor) -> None:
    samples, positions, features = inputs.shape
    dtype = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    for name, tensor in (("rstd", rstd), ("mean", mean)):
        if tensor is None:
            continue
        require_plain(name, tensor)
        groups = tensor.shape[-1] if tensor.dim() == 3 else 0
        by_position = tensor.shape == (samples, positions, 1)
        by_group = tensor.shape == (samples, 1, groups) and groups and features % groups == 0
        if not (by_position or by_group) or tensor.dtype != dtype or tensor.device != inputs.device:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}; accepted is "
                f"{(samples, positions, 1)} or ({samples}, 1, groups) with groups that divide "
                f"{features} features, {dtype}, on {inputs.device}"
            )
        if tensor.shape != rstd.shape:
            raise ValueError(
                f"mean has shape {tuple(tensor.shape)} and rstd {tuple(rstd.shape)}; "
                "they must agree"
            )


def _fake(
    inputs: Tensor,
    grad_outputs: Tensor,
    mean: Tensor | None,
    rstd: Tensor,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    features = inputs.shape[-1]
    bias_size = features if bias else None
    return LayerMoments.empty(grad_outputs, (features,), bias_size, variance, inner_products)


_operator = register(
    "norm_layer_moments(Tensor inputs, Tensor grad_outputs, Tensor? mean, Tensor rstd, bool bias, "
    "bool variance, bool inner_products) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
