"""Convolutions on the CPU, whose patches no vendor multiplies without writing them out.

The kernel keeps each sample's contribution to the weight gradient in cache, a tile at a time. The
contributions to the gradient of a bias are small, ``[samples, features]``: the kernel writes them
while it packs the output gradients, and ``batch_moments`` measures them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import _native
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import ACCUMULATION_DTYPES, address

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

_C: Any = _native.C


def conv_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bias: bool,
    variance: bool,
    inner_products: bool,
    batch_moments: Callable[..., Any],
) -> Outputs:
    """Moments of the contributions of ``[samples, channels, *spatial]``, none of them empty."""
    samples, in_channels = inputs.shape[:2]
    out_channels = grad_outputs.shape[1]
    shape = (out_channels, in_channels // groups, *kernel_size)
    parts = _Parts(inputs, shape, out_channels, bias, variance, inner_products)
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
    return parts.outputs(batch_moments)


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
        self.weight_grad = torch.empty(weight_shape, dtype=dtype, device="cpu")
        self.nothing = self.weight_grad.new_empty(0)
        self.weight_variance = torch.empty_like(self.weight_grad) if variance else self.nothing
        self.sq_norms = torch.empty(samples, dtype=torch.float64, device="cpu")
        self.products = self.sq_norms.new_empty(samples if inner_products else 0)
        self.bias_sums = (
            torch.empty(samples, out_features, dtype=dtype, device="cpu") if bias else None
        )
        self.asked = variance, inner_products

    def addresses(self) -> tuple[int, int, int, int, int]:
        return (
            self.weight_grad.data_ptr(),
            self.weight_variance.data_ptr(),
            self.sq_norms.data_ptr(),
            self.products.data_ptr(),
            0 if self.bias_sums is None else self.bias_sums.data_ptr(),
        )

    def outputs(self, batch_moments: Callable[..., Any]) -> Outputs:
        bias_grad = bias_variance = self.nothing
        if self.bias_sums is not None:
            variance, inner_products = self.asked
            mean, bias_variance, sq_norms, products = batch_moments(
                self.bias_sums, variance, inner_products
            )
            self.sq_norms += sq_norms
            if inner_products:
                self.products.add_(products, alpha=len(self.bias_sums))
            bias_grad = mean.mul_(len(self.bias_sums))
        return (
            self.weight_grad, bias_grad, self.sq_norms, self.weight_variance, bias_variance,
            self.products,
        )  # fmt: skip
