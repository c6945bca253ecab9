"""What the ops of single layers have in common: their result, and how it is packed and traced."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import ACCUMULATION_DTYPES

#: What a backend returns: weight and bias gradient, squared norms, variances of weight and bias,
#: inner products; empty where not asked for.
Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class LayerMoments(NamedTuple):
    """What the samples' contributions h_i to the gradient of a layer say.

    h_i is what sample i adds to the gradient of weight and bias, so that their sum is the gradient
    that a plain backward pass computes. For the mean loss of b samples, b h_i is the gradient of
    the sample's own loss.

    Attributes:
        weight_grad: sum_i h_i of the weight, in the weight's shape; float64 for float64 input,
            else float32.
        bias_grad: the same of the bias, or None.
        sq_norms: |h_i|^2 over weight and bias, ``[samples]``, float64.
        weight_variance: sum_i (h_i - h)^2 / (b-1) of every coordinate, with h = sum_i h_i / b; or
            None. With it the sum of squares is (b-1) weight_variance + weight_grad^2 / b.
        bias_variance: the same of the bias, or None.
        inner_products: <h_i, sum_j h_j> over weight and bias, ``[samples]``, float64, or None.
    """

    weight_grad: Tensor
    bias_grad: Tensor | None
    sq_norms: Tensor
    weight_variance: Tensor | None
    bias_variance: Tensor | None
    inner_products: Tensor | None


def pack(outputs: Outputs, bias: bool, variance: bool, inner_products: bool) -> LayerMoments:
    """Name the outputs of a backend; what was not asked for becomes None."""
    weight_grad, bias_grad, sq_norms, weight_variance, bias_variance, products = outputs
    return LayerMoments(
        weight_grad,
        bias_grad if bias else None,
        sq_norms,
        weight_variance if variance else None,
        bias_variance if variance and bias else None,
        products if inner_products else None,
    )


def apart(run: Callable[..., Outputs]) -> Callable[..., Outputs]:
    """For registration: no two outputs of an op may be one tensor, not even empty ones."""

    @functools.wraps(run)
    def distinct(*arguments: Any) -> Outputs:
        outputs = run(*arguments)
        first = {id(tensor): place for place, tensor in reversed(list(enumerate(outputs)))}
        weight_grad, bias_grad, sq_norms, weight_variance, bias_variance, products = (
            tensor if first[id(tensor)] == place else tensor.new_empty(0)
            for place, tensor in enumerate(outputs)
        )
        return weight_grad, bias_grad, sq_norms, weight_variance, bias_variance, products

    return distinct


def as_given(device: torch.device) -> AbstractContextManager[Any]:
    """A context in which products keep the types of their operands, whatever autocast says."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def bias_moments(
    sums: Tensor, variance: bool, inner_products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradient, variance, squared norms and inner products with the gradient, of a bias.

    Args:
        sums: what the samples contribute to it, ``[samples, features]``.
        variance: as asked of the op; what is not comes back empty.
        inner_products: likewise.
    """
    backend = backends.select(sums.device, sums.dtype)
    mean, spread, norms, along = backend.batch_moments(sums, variance, inner_products)
    return mean * len(sums), spread, norms, along * len(sums)


def outputs_of_nothing(
    grad_outputs: Tensor,
    positions: int,
    weight_shape: tuple[int, ...],
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> Outputs:
    """Where a tensor has no elements: zeros, but of a bias, which may have a gradient.

    Args:
        grad_outputs: with ``positions`` as one of its dimensions, and features.
        positions: which dimension.
        weight_shape: of the weight.
        bias: as asked of the op, like the others.
        variance: likewise.
        inner_products: likewise.
    """
    dtype = ACCUMULATION_DTYPES[grad_outputs.dtype]
    sums = grad_outputs.sum(positions, dtype=dtype)
    weight = torch.zeros(weight_shape, dtype=dtype, device=grad_outputs.device)
    nothing = weight.new_empty(0)
    sq_norms = torch.zeros(len(sums), dtype=torch.float64, device=sums.device)
    spread = torch.zeros_like(weight) if variance else nothing
    products = torch.zeros_like(sq_norms) if inner_products else sq_norms.new_empty(0)
    if not bias:
        return weight, nothing, sq_norms, spread, nothing, products
    bias_grad, bias_spread, norms, along = bias_moments(sums, variance, inner_products)
    return weight, bias_grad, norms, spread, bias_spread, along


def fake_outputs(
    grad_outputs: Tensor,
    weight_shape: tuple[int, ...],
    bias_size: int,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> Outputs:
    """Shapes and dtypes of the outputs, for tracing."""
    dtype = ACCUMULATION_DTYPES[grad_outputs.dtype]
    samples = grad_outputs.shape[0]

    def empty(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return grad_outputs.new_empty(shape, dtype=kind)

    return (
        empty(*weight_shape),
        empty(bias_size if bias else 0),
        empty(samples, kind=torch.float64),
        empty(*weight_shape) if variance else empty(0),
        empty(bias_size if variance and bias else 0),
        empty(samples if inner_products else 0, kind=torch.float64),
    )
