"""What the ops give back: the tensors of each result, their shapes and their dtypes, said once.

Backends write into what ``empty`` allocates, and torch.compile traces a call with the same. What
was not asked for is None.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adadagrad_kernels.checks import ACCUMULATION_DTYPES


class BatchMoments(NamedTuple):
    """What the rows g_i of G say about the batch.

    Attributes:
        mean: g = (1/b) sum_i g_i, ``[features]``; float64 for float64 input, else float32.
        variance: sum_i (g_i - g)^2 / (b-1) of every coordinate, ``[features]``, or None.
        sq_norms: |g_i|^2, ``[samples]``, float64.
        inner_products: <g_i, g>, ``[samples]``, float64, or None.
    """

    mean: Tensor
    variance: Tensor | None
    sq_norms: Tensor
    inner_products: Tensor | None

    @classmethod
    def empty(cls, per_sample_grads: Tensor, variance: bool, inner_products: bool) -> BatchMoments:
        """Memory for the moments of G ``[samples, features]``, as far as they are asked for."""
        samples, features = per_sample_grads.shape
        device = per_sample_grads.device
        dtype = ACCUMULATION_DTYPES[per_sample_grads.dtype]
        mean = allocate(features, dtype, device)
        sq_norms = allocate(samples, torch.float64, device)
        return cls(
            mean,
            allocate_like(mean) if variance else None,
            sq_norms,
            allocate_like(sq_norms) if inner_products else None,
        )


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

    @classmethod
    def empty(
        cls,
        grad_outputs: Tensor,
        weight_shape: tuple[int, ...],
        bias_size: int | None,
        variance: bool,
        inner_products: bool,
    ) -> LayerMoments:
        """Memory for the moments of a layer, as far as they are asked for.

        Args:
            grad_outputs: the gradient of the loss by the layer's outputs, ``[samples, ...]``.
            weight_shape: of the weight.
            bias_size: elements of the bias; None without one.
            variance: whether the variance is measured.
            inner_products: whether they are measured.
        """
        samples, device = grad_outputs.shape[0], grad_outputs.device
        dtype = ACCUMULATION_DTYPES[grad_outputs.dtype]
        weight = allocate(weight_shape, dtype, device)
        bias = None if bias_size is None else allocate(bias_size, dtype, device)
        sq_norms = allocate(samples, torch.float64, device)
        return cls(
            weight,
            bias,
            sq_norms,
            allocate_like(weight) if variance else None,
            allocate_like(bias) if variance and bias is not None else None,
            allocate_like(sq_norms) if inner_products else None,
        )


def sq_norm(device: torch.device | str | None, value: float | None = None) -> Tensor:
    """What a step gives back, a squared norm: 0-dimensional, float64; memory where no value is."""
    if value is None:
        return allocate((), torch.float64, device)
    return torch.full((), value, dtype=torch.float64, device=device)


def allocate(
    shape: int | tuple[int, ...], dtype: torch.dtype, device: torch.device | str | None
) -> Tensor:
    """New memory of the device; raises torch's error where there is none left.

    One dimension is given as a number: torch takes half a microsecond to look through a tuple.
    """
    return torch.empty(shape, dtype=dtype, device=device)


def allocate_like(tensor: Tensor) -> Tensor:
    """As much again; quicker than saying what."""
    return torch.empty_like(tensor)


def addresses(outputs: BatchMoments | LayerMoments) -> tuple[int, ...]:
    """Where a kernel writes, in the order of the fields; 0 for what was not asked for."""
    return tuple([0 if output is None else output.data_ptr() for output in outputs])


def in_schema(outputs: BatchMoments | LayerMoments) -> tuple[Tensor, ...]:
    """The tensors of a result; schemas know none that may be missing, so empty ones stand in."""
    by_coordinate, by_sample = outputs[0], outputs.sq_norms
    return tuple(
        (by_sample if name == "inner_products" else by_coordinate).new_empty(0)
        if output is None
        else output
        for name, output in zip(outputs._fields, outputs, strict=True)
    )
