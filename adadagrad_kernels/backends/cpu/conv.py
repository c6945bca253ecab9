"""Convolutions on the CPU, whose patches no vendor multiplies without writing them out.

The kernel keeps each sample's contribution to the weight gradient in cache, a tile at a time. The
contributions to the gradient of a bias are small, ``[samples, features]``: the kernel writes them
while it packs the output gradients, and ``batch_moments`` measures them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import _native
from adadagrad_kernels.backends.conv_geometry import ConvGeometry
from adadagrad_kernels.backends.cpu.moments import batch_moments
from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import address

__all__ = [
    "conv_moments",
]

_C: Any = _native.C  # None only where `unavailable` says so


def conv_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    geometry: ConvGeometry,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """Moments of the contributions of ``[samples, channels, *spatial]``, none of them empty."""
    samples, in_channels = inputs.shape[:2]
    out_channels = grad_outputs.shape[1]
    shape = geometry.weight_shape(inputs, grad_outputs)
    weight = LayerMoments.empty(grad_outputs, shape, None, variance, inner_products)
    bias_sums = weight.weight_grad.new_empty(samples, out_channels) if bias else None
    written = (
        weight.weight_grad, weight.weight_variance, weight.sq_norms, weight.inner_products,
        bias_sums,
    )  # fmt: skip
    _C.conv_moments(
        address(inputs),
        address(grad_outputs),
        TYPE_CODES[inputs.dtype],
        (samples, in_channels, out_channels, geometry.groups),
        _three(inputs.shape[2:], 1),
        _three(grad_outputs.shape[2:], 1),
        _three(geometry.kernel_size, 1),
        _three(geometry.stride, 1),
        _three(geometry.padding, 0),
        _three(geometry.dilation, 1),
        _five(inputs.stride()),
        _five(grad_outputs.stride()),
        tuple(0 if tensor is None else tensor.data_ptr() for tensor in written),
        torch.get_num_threads(),
    )
    return weight if bias_sums is None else _with_bias(weight, bias_sums)


def _three(values: tuple[int, ...], missing: int) -> list[int]:
    """One number for each of three dimensions; the first ones are those that are missing."""
    return [missing] * (3 - len(values)) + list(values)


def _five(strides: tuple[int, ...]) -> list[int]:
    return [*strides[:2], *_three(strides[2:], 0)]


def _with_bias(weight: LayerMoments, sums: Tensor) -> LayerMoments:
    """The moments of the weight, with those of the contributions to the bias."""
    samples, products = len(sums), weight.inner_products
    asked = weight.weight_variance is not None, products is not None
    mean, variance, sq_norms, along = batch_moments(sums, *asked)
    weight.sq_norms.add_(sq_norms)
    if products is not None and along is not None:
        products.add_(along, alpha=samples)
    return weight._replace(bias_grad=mean.mul_(samples), bias_variance=variance)
