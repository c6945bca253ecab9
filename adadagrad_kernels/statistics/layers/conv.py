"""Convolutions: runner and use; their forms are in ``ops.conv_moments``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.ops import LayerMoments, conv_moments
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Runner,
    as_computed,
    computed_with,
    finder,
    part_of,
    runs_as,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.uses import LayerUse, bias_moments, upcast

_KINDS: tuple[type[Any], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@finder
def find(module: Any) -> Runner | None:
    """For ``nn.Conv1d``, ``nn.Conv2d`` and ``nn.Conv3d``."""
    for kind in _KINDS:
        if runs_as(module, kind) and type(module)._conv_forward is kind._conv_forward:
            return _conv
    return None


def _conv(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = ConvUse(
        layer.name,
        weight=part_of(module.weight),
        bias=part_of(module.bias),
        kernel_size=module.kernel_size,
        stride=module.stride,
        dilation=module.dilation,
        groups=module.groups,
        least_dimensions=len(module.kernel_size) + 2,
        folds=False,
    )
    if not recorder.count_call(use):
        output: Tensor = layer.forward(input)
        return output
    sides = module._reversed_padding_repeated_twice
    input, use.padding = padded(as_computed(input), tuple(sides), module.padding_mode)
    run = (F.conv1d, F.conv2d, F.conv3d)[len(module.kernel_size) - 1]
    weight, bias = computed_with(recorder, module.weight, module.bias)
    output = run(
        input,
        weight,
        bias,
        module.stride,
        use.padding,
        module.dilation,
        module.groups,
    )
    return recorder.attach(use, output, [input])


@dataclass(eq=False)
class ConvUse(LayerUse):
    """A convolution of the saved inputs, which are padded already unless zeros suffice.

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
            return bias_moments(upcast(self.grad).flatten(2).sum(2), **asked)
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
        outputs = upcast(self.grad[rows])
        bias = [outputs.flatten(2).sum(2)] if self.bias is not None else []
        if self.weight is None:
            return bias
        inputs = upcast(self.saved[0][rows])
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
