"""Layers that multiply, on the CPU: linear layers and convolutions.

The kernels keep each sample's contribution to the weight gradient in cache, a tile at a time. The
contributions to the gradient of a bias are small, ``[samples, features]``: the kernels write them
while they pack the output gradients, and ``batch_moments`` measures them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import _native
from adadagrad_kernels.backends import cpu_rank_one
from adadagrad_kernels.backends.cpu_product_forms import linear_form
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import ACCUMULATION_DTYPES, address

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

_C: Any = _native.C


def linear_moments(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> Outputs:
    """Moments of h_i = sum_t y_it x_it' for ``[samples, positions, features]``."""
    samples, positions, in_features = inputs.shape
    out_features = grad_outputs.shape[2]
    empty = _is_empty(inputs, grad_outputs)
    form = linear_form(positions, in_features, out_features, variance, inner_products)
    if form == "rank one" and not empty:
        return cpu_rank_one.linear_moments(inputs, grad_outputs, bias, variance, inner_products)
    if form == "gram" and not empty:
        return cpu_rank_one.gram_norms(inputs, grad_outputs, bias)
    parts = _Parts(inputs, (out_features, in_features), out_features, bias, variance,
                   inner_products)  # fmt: skip
    if empty:
        return parts.of_nothing(grad_outputs.sum(1, dtype=parts.weight_grad.dtype))
    _C.linear_moments(
        address(inputs),
        address(grad_outputs),
        TYPE_CODES[inputs.dtype],
        (samples, positions, in_features, out_features),
        inputs.stride()[:2],
        grad_outputs.stride()[:2],
        parts.addresses(),
        torch.get_num_threads(),
    )
    return parts.outputs()


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
    """Moments of the contributions of ``[samples, channels, *spatial]``."""
    samples, in_channels = inputs.shape[:2]
    out_channels = grad_outputs.shape[1]
    shape = (out_channels, in_channels // groups, *kernel_size)
    parts = _Parts(inputs, shape, out_channels, bias, variance, inner_products)
    if _is_empty(inputs, grad_outputs):
        return parts.of_nothing(grad_outputs.flatten(2).sum(2, dtype=parts.weight_grad.dtype))
    _C.conv_moments(
        address(inputs),
        address(grad_outputs),
        TYPE_CODES[inputs.dtype],
        (samples, in_channels, out_channels, groups),
        _three(inputs.shape[2:], 1),
        _three(grad_outputs.shape[2:], 1),
        _three(kernel_size, 1),
        _three(stride, 1),
        _three(padding, 0),
        _three(dilation, 1),
        _five(inputs.stride()),
        _five(grad_outputs.stride()),
        parts.addresses(),
        torch.get_num_threads(),
    )
    return parts.outputs()


def _three(values: Any, missing: int) -> list[int]:
    """One number for each of three dimensions; the first ones are those that are missing."""
    return [missing] * (3 - len(values)) + list(values)


def _five(strides: tuple[int, ...]) -> list[int]:
    return [*strides[:2], *_three(strides[2:], 0)]


class _Parts:
    """What the kernel writes, and what becomes of it."""

    def __init__(
        self,
        inputs: Tensor,
        weight_shape: tuple[int, ...],
        out_features: int,
        bias: bool,
        variance: bool,
        inner_products: bool,
    ) -> None:
        dtype = ACCUMULATION_DTYPES[inputs.dtype]
        samples = len(inputs)
        self.weight_grad = torch.empty(weight_shape, dtype=dtype)
        self.nothing = self.weight_grad.new_empty(0)
        self.weight_variance = torch.empty_like(self.weight_grad) if variance else self.nothing
        self.sq_norms = torch.empty(samples, dtype=torch.float64)
        self.products = self.sq_norms.new_empty(samples if inner_products else 0)
        self.bias_sums = torch.empty(samples, out_features, dtype=dtype) if bias else None
        self.asked = variance, inner_products

    def addresses(self) -> tuple[int, int, int, int, int]:
        return (
            self.weight_grad.data_ptr(),
            self.weight_variance.data_ptr(),
            self.sq_norms.data_ptr(),
            self.products.data_ptr(),
            0 if self.bias_sums is None else self.bias_sums.data_ptr(),
        )

    def of_nothing(self, bias_sums: Tensor) -> Outputs:
        """Where a tensor has no elements; the bias may still have a gradient."""
        for tensor in (self.weight_grad, self.weight_variance, self.sq_norms, self.products):
            tensor.zero_()
        self.bias_sums = None if self.bias_sums is None else bias_sums
        return self.outputs()

    def outputs(self) -> Outputs:
        bias_grad = bias_variance = self.nothing
        if self.bias_sums is not None:
            bias_grad, bias_variance = self._add_bias(self.bias_sums)
        return (
            self.weight_grad, bias_grad, self.sq_norms, self.weight_variance, bias_variance,
            self.products,
        )  # fmt: skip

    def _add_bias(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        from adadagrad_kernels.backends.cpu import batch_moments

        variance, inner_products = self.asked
        mean, spread, sq_norms, products = batch_moments(sums, variance, inner_products)
        self.sq_norms += sq_norms
        if inner_products:
            self.products.add_(products, alpha=len(sums))
        return mean.mul_(len(sums)), spread


def _is_empty(inputs: Tensor, grad_outputs: Tensor) -> bool:
    """Whether a tensor has no elements, so that every sum is zero."""
    return math.prod(inputs.shape) == 0 or math.prod(grad_outputs.shape) == 0
