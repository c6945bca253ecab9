"""Linear layers and convolutions: layers whose weight gradient is a matrix product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels.ops import LayerMoments, conv_moments, linear_moments
from adadagrad_kernels.statistics.layerwise.uses import LayerUse, as_sequences, bias_moments, wide


@dataclass(eq=False)
class LinearUse(LayerUse):
    """``F.linear`` of the saved inputs ``[samples, ..., in_features]``.

    Attributes:
        transposed: whether the weight is ``[in_features, out_features]``.
    """

    transposed: bool = False

    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """By ``ops.linear_moments``."""
        asked = {"variance": variance, "inner_products": inner_products}
        if self.weight is None:
            return bias_moments(as_sequences(wide(self.grad)).sum(1), **asked)
        if not self.transposed:
            return linear_moments(self.saved[0], self.grad, bias=self.bias is not None, **asked)
        # The weight's gradient is the transpose of a linear layer's: inputs and outputs change
        # roles, and the bias goes alone.
        weight = linear_moments(self.grad, self.saved[0], bias=False, **asked)
        if self.bias is None:
            return weight
        bias = bias_moments(as_sequences(wide(self.grad)).sum(1), **asked)
        products = None
        if weight.inner_products is not None and bias.inner_products is not None:
            products = weight.inner_products + bias.inner_products
        return weight._replace(
            bias_grad=bias.bias_grad,
            bias_variance=bias.bias_variance,
            sq_norms=weight.sq_norms + bias.sq_norms,
            inner_products=products,
        )

    def contributions(self, rows: slice) -> list[Tensor]:
        """A product for each sample."""
        outputs = as_sequences(wide(self.grad[rows]))
        bias = [outputs.sum(1)] if self.bias is not None else []
        if self.weight is None:
            return bias
        inputs = as_sequences(wide(self.saved[0][rows]))
        pair = (inputs, outputs) if self.transposed else (outputs, inputs)
        return [torch.bmm(pair[0].mT, pair[1]), *bias]


@dataclass(eq=False)
class ConvUse(LayerUse):
    """A convolution of the saved inputs, which are padded already where zeros do not do.

    Attributes:
        kernel_size: one number for each spatial dimension, as the others.
        stride: steps.
        padding: zeros on both sides.
        dilation: distance of kernel elements.
        groups: groups of channels.
    """

    kernel_size: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """By ``ops.conv_moments``."""
        asked = {"variance": variance, "inner_products": inner_products}
        if self.weight is None:
            return bias_moments(wide(self.grad).flatten(2).sum(2), **asked)
        return conv_moments(
            self.saved[0],
            self.grad,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            bias=self.bias is not None,
            **asked,
        )

    def contributions(self, rows: slice) -> list[Tensor]:
        """The samples as groups of one convolution's weight gradient."""
        outputs = wide(self.grad[rows])
        bias = [outputs.flatten(2).sum(2)] if self.bias is not None else []
        if self.weight is None:
            return bias
        inputs = wide(self.saved[0][rows])
        samples, channels = inputs.shape[:2]
        together = (1, samples * channels, *inputs.shape[2:])
        weight = torch.ops.aten.convolution_backward(
            outputs.reshape(1, -1, *outputs.shape[2:]),
            inputs.reshape(together),
            outputs.new_empty(
                samples * outputs.shape[1], channels // self.groups, *self.kernel_size
            ),
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            samples * self.groups,
            (False, True, False),
        )[1]
        return [weight.view(samples, outputs.shape[1], -1, *self.kernel_size), *bias]


def padded(inputs: Tensor, padding: tuple[int, ...], mode: str) -> tuple[Tensor, tuple[int, ...]]:
    """Inputs and the zeros that are left to the convolution, for ``Conv.padding`` of any kind.

    Args:
        inputs: ``[samples, channels, *spatial]``.
        padding: before and after each spatial dimension, the last dimension first, as ``F.pad``.
        mode: of ``F.pad``; ``zeros`` for constant padding.
    """
    sides = tuple(zip(padding[0::2], padding[1::2], strict=True))[::-1]
    if mode == "zeros" and all(before == after for before, after in sides):
        return inputs, tuple(before for before, _ in sides)
    kind = "constant" if mode == "zeros" else mode
    return F.pad(inputs, padding, mode=kind), (0,) * len(sides)
