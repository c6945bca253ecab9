"""What a convolution does to its inputs, as one value."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ConvGeometry(NamedTuple):
    """One number for each spatial dimension, and the groups of channels."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def weight_shape(self, inputs: Tensor, grad_outputs: Tensor) -> tuple[int, ...]:
        """``(out_channels, channels of a group, *kernel_size)``."""
        return (grad_outputs.shape[1], inputs.shape[1] // self.groups, *self.kernel_size)

    def patches(self, inputs: Tensor, channels_inside: bool) -> Tensor:
        """``[samples * groups, positions, patch]``, a patch's channels inside or outside.

        Written out once, along runs of memory as long as there are: the kernel's last dimension
        and the channels, or the positions of a row.
        """
        dims = len(self.kernel_size)
        padding = [side for p in reversed(self.padding) for side in (p, p)]
        if channels_inside:
            inputs, padding = inputs.movedim(1, -1), [0, 0, *padding]
        padded = F.pad(inputs, padding).contiguous()
        first = 1 if channels_inside else 2
        settings = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        for axis, (kernel, step, spread) in enumerate(settings, start=first):
            padded = padded.unfold(axis, spread * (kernel - 1) + 1, step)[..., ::spread]
        samples = len(inputs)
        positions = padded.shape[first : first + dims].numel()
        if channels_inside:
            # [samples, *positions, groups, channels, *kernel]
            padded = padded.view(*padded.shape[: 1 + dims], self.groups, -1, *self.kernel_size)
            padded = padded.movedim(1 + dims, 1).movedim(2 + dims, -1)
            return padded.reshape(samples * self.groups, positions, -1)
        kernel_axes = range(2 + dims, 2 + 2 * dims)
        padded = padded.permute(0, 1, *kernel_axes, *range(2, 2 + dims))
        return padded.reshape(samples * self.groups, -1, positions).mT

    def weight_grad(self, inputs: Tensor, grad_outputs: Tensor, groups: int = 1) -> Tensor:
        """The vendor's, as autograd calls it; with ``groups`` times as many groups."""
        channels = inputs.shape[1] // (self.groups * groups)
        weight = inputs.new_empty(grad_outputs.shape[1], channels, *self.kernel_size)
        gradient: Tensor = torch.ops.aten.convolution_backward(
            grad_outputs,
            inputs,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            self.groups * groups,
            (False, True, False),
        )[1]
        return gradient
