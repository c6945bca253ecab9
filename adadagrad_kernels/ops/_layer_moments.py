"""What the ops of single layers have in common around their kernels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends.outputs import LayerMoments


def from_schema(
    outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor],
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """The record of what a registered op gives; what was not asked for becomes None."""
    weight_grad, bias_grad, sq_norms, weight_variance, bias_variance, products = outputs
    return LayerMoments(
        weight_grad,
        bias_grad if bias else None,
        sq_norms,
        weight_variance if variance else None,
        bias_variance if variance and bias else None,
        products if inner_products else None,
    )


def as_given(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products keep the types of their operands, whatever autocast says."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def with_bias(weight: LayerMoments, sums: Tensor | None) -> LayerMoments:
    """The moments of a weight, with those of a bias, as far as the first have been measured.

    Args:
        weight: without a bias.
        sums: what the samples contribute to the bias, ``[samples, features]``; None without one.
    """
    if sums is None:
        return weight
    products = weight.inner_products
    backend = backends.select(sums.device, sums.dtype, "batch_moments")
    mean, spread, norms, along = backend.batch_moments(
        sums, weight.weight_variance is not None, products is not None
    )
    if products is not None:
        products = products + along * len(sums)
    return weight._replace(
        bias_grad=mean * len(sums),
        sq_norms=weight.sq_norms + norms,
        bias_variance=spread,
        inner_products=products,
    )


def moments_of_nothing(
    grad_outputs: Tensor,
    positions: int,
    weight_shape: tuple[int, ...],
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """Where a tensor has no elements: zeros, but of a bias, which may have a gradient.

    Args:
        grad_outputs: with ``positions`` as one of its dimensions, and features.
        positions: which dimension.
        weight_shape: of the weight.
        bias: as asked of the op.
        variance: as asked of the op.
        inner_products: as asked of the op.
    """
    weight = LayerMoments.empty(grad_outputs, weight_shape, None, variance, inner_products)
    for output in weight:
        if output is not None:
            output.zero_()
    dtype = weight.weight_grad.dtype
    return with_bias(weight, grad_outputs.sum(positions, dtype=dtype) if bias else None)
