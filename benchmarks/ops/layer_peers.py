"""What a careful user would write in plain torch for the moments of one layer.

The plain gradient is what training computes anyway; the others give gradient and squared norms,
``by_samples`` also the sum of squares, from which a variance follows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def plain_linear(inputs: Tensor, grad_outputs: Tensor) -> Tensor:
    """The weight gradient alone."""
    return grad_outputs.flatten(0, 1).t() @ inputs.flatten(0, 1)


def by_samples(inputs: Tensor, grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every sample's gradient, a matrix of samples by parameters, and its reductions."""
    grads = torch.bmm(grad_outputs.mT, inputs)
    gradient = grads.sum(0)
    norms = torch.linalg.vecdot(flat := grads.flatten(1), flat)
    return gradient, norms, grads.square_().sum(0)


def by_pairs(inputs: Tensor, grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Products of positions with each other, known as ghost norms."""
    pairs = torch.bmm(inputs, inputs.mT) * torch.bmm(grad_outputs, grad_outputs.mT)
    return plain_linear(inputs, grad_outputs), pairs.sum((1, 2))


def plain_conv(inputs: Tensor, grad_outputs: Tensor, weight: Tensor, padding: int) -> Tensor:
    """The weight gradient alone."""
    gradients = torch.ops.aten.convolution_backward(
        grad_outputs, inputs, weight, None, [1, 1], [padding, padding], [1, 1], False, [0, 0], 1,
        (False, True, False),
    )  # fmt: skip
    result: Tensor = gradients[1]
    return result


def conv_by_samples(
    inputs: Tensor, grad_outputs: Tensor, weight: Tensor, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The patches of the images, and then as a linear layer."""
    patches = F.unfold(inputs, weight.shape[2:], padding=padding).mT
    gradient, norms, squares = by_samples(patches, grad_outputs.flatten(2).mT)
    return gradient.view_as(weight), norms, squares.view_as(weight)
