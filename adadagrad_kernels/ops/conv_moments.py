"""Gradient and statistics of a convolution from its inputs and output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.backends.conv_geometry import ConvGeometry
from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.checks import check_layer_tensors
from adadagrad_kernels.ops import _conv_forms
from adadagrad_kernels.ops._layer_moments import (
    as_given,
    from_schema,
    moments_of_nothing,
)
from adadagrad_kernels.ops._library import register


def conv_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    kernel_size: Sequence[int],
    *,
    stride: Sequence[int] | int = 1,
    padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1,
    groups: int = 1,
    bias: bool = True,
    variance: bool = False,
    inner_products: bool = False,
) -> LayerMoments:
    r"""Weight gradient of a convolution, and the statistics of its samples' contributions.

    With output gradients :math:`y_{iot}` at position t of output channel o and the input
    :math:`x_{ic}` at the place that kernel element k sees from there,

    .. math::
        h_{i,ock} = \sum_t y_{iot}\, x_{ic,\,\mathrm{stride}\, t + \mathrm{dilation}\, k -
        \mathrm{padding}},

    and the gradient, norms, inner products and variance of :func:`linear_moments`: a convolution
    is a linear layer on the patches of its input. On a CPU these are not written out; elsewhere,
    and where positions are few, the patches of some samples are at a time.

    Args:
        inputs: ``[samples, in_channels, *spatial]`` with one, two or three spatial dimensions, in
            float32, bfloat16, float16 or float64.
        grad_outputs: the gradient of the loss by the layer's outputs,
            ``[samples, out_channels, *out_spatial]``, of the same dtype.
        kernel_size: one number for each spatial dimension.
        stride: one number, or one for each spatial dimension.
        padding: zeros on both sides, in the same form. Other padding modes: pad first, and give 0.
        dilation: distance of kernel elements, in the same form.
        groups: groups of channels that see each other.
        bias: whether the layer has a bias whose gradient counts.
        variance: whether to measure the variance of every coordinate.
        inner_products: whether to measure the inner products.

    Returns:
        ``LayerMoments`` with a weight gradient ``[out_channels, in_channels / groups, *kernel]``.

    Raises:
        ValueError: for tensors of different devices, dtypes or numbers of samples, without
            samples, of another layout; for sizes that do not belong to one convolution; for only
            one sample where a variance is asked.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import conv_moments
        >>> inputs = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> moments = conv_moments(inputs, torch.ones(1, 1, 2), (2,))
        >>> moments.weight_grad, moments.sq_norms
        (tensor([[[3., 5.]]]), tensor([38.], dtype=torch.float64))
    """
    dimensions = len(kernel_size)
    geometry = ConvGeometry(
        tuple(kernel_size),
        _each(stride, dimensions),
        _each(padding, dimensions),
        _each(dilation, dimensions),
        groups,
    )
    asked = (bias, variance, inner_products)
    if torch.compiler.is_compiling():
        return from_schema(_operator(inputs, grad_outputs, *geometry, *asked), *asked)
    return _run(inputs, grad_outputs, geometry, *asked)


def _each(value: Sequence[int] | int, dimensions: int) -> tuple[int, ...]:
    return (value,) * dimensions if isinstance(value, int) else tuple(value)


def _run(
    inputs: Tensor,
    grad_outputs: Tensor,
    geometry: ConvGeometry,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    check_layer_tensors(inputs, grad_outputs, variance=variance)
    _check_sizes(inputs, grad_outputs, geometry)
    inputs, grad_outputs = inputs.detach(), grad_outputs.detach()
    asked = (bias, variance, inner_products)
    if not inputs.numel() or not grad_outputs.numel():
        shape = geometry.weight_shape(inputs, grad_outputs)
        return moments_of_nothing(grad_outputs.flatten(2), 2, shape, *asked)
    with as_given(inputs.device):
        return _conv_forms.conv_moments(inputs, grad_outputs, geometry, *asked)


def _check_sizes(inputs: Tensor, grad_outputs: Tensor, geometry: ConvGeometry) -> None:
    kernel_size, stride, padding, dilation, groups = geometry
    dimensions = len(kernel_size)
    shapes = f"inputs {tuple(inputs.shape)} and grad_outputs {tuple(grad_outputs.shape)}"
    if dimensions not in (1, 2, 3) or not inputs.dim() == grad_outputs.dim() == dimensions + 2:
        raise ValueError(
            f"kernel_size {kernel_size} asks for tensors [samples, channels, *spatial] with "
            f"{dimensions} of 1 to 3 spatial dimensions, got {shapes}"
        )
    settings = {"stride": stride, "padding": padding, "dilation": dilation}
    for name, values in settings.items():
        least = 0 if name == "padding" else 1
        if len(values) != dimensions or min(values) < least:
            raise ValueError(
                f"{name} must be {dimensions} numbers of at least {least}, got {values}"
            )
    if min(kernel_size) < 1:
        raise ValueError(f"kernel_size must be at least 1 everywhere, got {kernel_size}")
    if groups < 1 or inputs.shape[1] % groups or grad_outputs.shape[1] % groups:
        raise ValueError(f"groups must divide the channels of {shapes}, got {groups}")
    expected = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip(
            inputs.shape[2:], kernel_size, stride, padding, dilation, strict=True
        )
    ]
    if list(grad_outputs.shape[2:]) != expected:
        raise ValueError(
            f"a convolution of inputs {tuple(inputs.shape)} with kernel_size {kernel_size}, "
            f"stride {stride}, padding {padding} and dilation {dilation} has "
            f"outputs {tuple(expected)} in space, but grad_outputs is {tuple(grad_outputs.shape)}"
        )


def _registered(inputs: Tensor, grad_outputs: Tensor, *settings: Any) -> LayerMoments:
    geometry, asked = _from_schema(*settings)
    return _run(inputs, grad_outputs, geometry, *asked)


def _fake(inputs: Tensor, grad_outputs: Tensor, *settings: Any) -> LayerMoments:
    geometry, (bias, *asked) = _from_schema(*settings)
    shape = geometry.weight_shape(inputs, grad_outputs)
    return LayerMoments.empty(grad_outputs, shape, shape[0] if bias else None, *asked)


def _from_schema(*settings: Any) -> tuple[ConvGeometry, tuple[bool, bool, bool]]:
    *sizes, groups, bias, variance, inner_products = settings
    kernel_size, stride, padding, dilation = map(tuple, sizes)
    geometry = ConvGeometry(kernel_size, stride, padding, dilation, groups)
    return geometry, (bias, variance, inner_products)


_operator = register(
    "conv_moments(Tensor inputs, Tensor grad_outputs, int[] kernel_size, int[] stride, "
    "int[] padding, int[] dilation, int groups, bool bias, bool variance, bool inner_products)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _registered,
    _fake,
)
