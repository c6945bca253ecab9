"""What the ops of single layers must give, from every sample's contribution in extended precision.

``Contributions`` holds the h_i of weight and bias, written from the definitions apart from the
package, and beside each the size of the terms that it sums: errors are judged by these.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor, dtype, finfo

from adadagrad_kernels.ops import LayerMoments
from support.tolerances import (
    SAFETY,
    Array,
    accumulation_dtype,
    accumulation_epsilon,
    assert_within,
    extended,
    smallest,
)


@dataclass(frozen=True)
class Contributions:
    """Weight and bias ``[samples, size]``, and the sums of the absolute terms.

    ``multiplied`` where the weight's are matrix products, which a vendor stores in the type of the
    operands.
    """

    weight: Array
    bias: Array
    weight_size: Array
    bias_size: Array
    shape: tuple[int, ...]
    dtype: dtype
    multiplied: bool = False


def linear(inputs: Tensor, grad_outputs: Tensor) -> Contributions:
    """A sum over positions of outer products."""
    samples, *positions, _ = inputs.shape
    x = extended(inputs).reshape(samples, math.prod(positions), inputs.shape[-1])
    y = extended(grad_outputs).reshape(samples, math.prod(positions), grad_outputs.shape[-1])
    shape = (y.shape[2], x.shape[2])
    weight = np.einsum("bto,bti->boi", y, x).reshape(samples, math.prod(shape))
    size = np.einsum("bto,bti->boi", np.abs(y), np.abs(x)).reshape(samples, math.prod(shape))
    return Contributions(weight, y.sum(1), size, np.abs(y).sum(1), shape, inputs.dtype, True)


def conv(
    inputs: Tensor,
    grad_outputs: Tensor,
    kernel_size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Contributions:
    """A loop over kernel elements; each sees a strided part of the padded input."""
    x, y = extended(inputs), extended(grad_outputs)
    samples, out_channels = y.shape[:2]
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    channels = x.shape[1] // groups
    shape = (out_channels, channels, *kernel_size)
    weight = np.zeros((samples, *shape), np.longdouble)
    size = np.zeros((samples, *shape), np.longdouble)
    positions = grad_outputs.shape[2:].numel()
    y = y.reshape(samples, groups, out_channels // groups, positions)
    for place in itertools.product(*map(range, kernel_size)):
        window = tuple(
            slice(k * d, k * d + s * (n - 1) + 1, s)
            for k, d, s, n in zip(place, dilation, stride, grad_outputs.shape[2:], strict=True)
        )
        seen = x[(slice(None), slice(None), *window)].reshape(samples, groups, channels, positions)
        at = (slice(None), slice(None), slice(None), *place)
        form = (samples, out_channels, channels)
        weight[at] = np.einsum("bgot,bgct->bgoc", y, seen).reshape(form)
        size[at] = np.einsum("bgot,bgct->bgoc", np.abs(y), np.abs(seen)).reshape(form)
    flat = y.reshape(samples, out_channels, positions)
    return Contributions(
        weight.reshape(samples, weight[0].size), flat.sum(2),
        size.reshape(samples, size[0].size), np.abs(flat).sum(2),
        shape, inputs.dtype, True,
    )  # fmt: skip


def norm_layer(
    inputs: Tensor, grad_outputs: Tensor, mean: Tensor | None, rstd: Tensor
) -> Contributions:
    """Feature by feature, with the normalised input."""
    x, y, scale = extended(inputs), extended(grad_outputs), extended(rstd)
    width = x.shape[2] // scale.shape[2]
    if mean is not None:
        x = x - np.repeat(extended(mean), width, 2)
    x = x * np.repeat(scale, width, 2)
    size = np.abs(y * x).sum(1)
    if mean is not None:  # the difference is rounded relative to its parts
        size = size + (np.abs(y) * np.abs(np.repeat(extended(mean) * scale, width, 2))).sum(1)
    return Contributions(
        (y * x).sum(1), y.sum(1), size, np.abs(y).sum(1), x.shape[2:],
        inputs.dtype,
    )  # fmt: skip


def embedding(
    indices: Tensor, grad_outputs: Tensor, num_embeddings: int, padding_idx: int | None
) -> Contributions:
    """A loop over samples and positions."""
    ids = indices.reshape(len(indices), -1).numpy()
    y = extended(grad_outputs).reshape(*ids.shape, grad_outputs.shape[-1])
    weight = np.zeros((len(ids), num_embeddings, y.shape[2]), np.longdouble)
    size = np.zeros_like(weight)
    for sample, position in np.ndindex(*ids.shape):
        if ids[sample, position] != padding_idx:
            weight[sample, ids[sample, position]] += y[sample, position]
            size[sample, ids[sample, position]] += np.abs(y[sample, position])
    nothing = np.zeros((len(ids), 0), np.longdouble)
    return Contributions(
        weight.reshape(len(ids), -1), nothing, size.reshape(len(ids), -1), nothing,
        weight.shape[1:], grad_outputs.dtype,
    )  # fmt: skip


@np.errstate(invalid="ignore", over="ignore")
def assert_layer_moments(actual: LayerMoments, expected: Contributions, bias: bool) -> None:
    """Every statistic that is there, against the definitions.

    Everything is judged by the size of its terms, which bounds the error of a sum in any order (a
    partial sum of n terms with random signs is as large as the square root of n), and of whichever
    of the equivalent forms computed it. A variance is judged by the mean square, since a
    difference of squares is allowed where a sample's contribution is a single product.
    """
    samples = len(expected.weight)
    wide = SAFETY * accumulation_epsilon(expected.dtype)
    floor = SAFETY * smallest(accumulation_dtype(expected.dtype))
    parts = [("weight", expected.weight, expected.weight_size, expected.shape)]
    if bias:
        parts.append(("bias", expected.bias, expected.bias_size, expected.bias.shape[1:]))
    norms, norms_off, products, products_off = (np.zeros(samples, np.longdouble) for _ in range(4))
    for name, values, sizes, shape in parts:
        total = values.sum(0)
        # Products are stored in the type of their operands, and so is a gradient that is one.
        stored = expected.multiplied
        unit = SAFETY * finfo(expected.dtype).eps if stored else wide
        # A sum of so many samples of one sign drifts as tolerances.py derives: by their root.
        drift = max(1.0, np.sqrt(samples) / 16)
        off = unit * drift * sizes.sum(0) + floor
        assert_within(
            f"{name}_grad", getattr(actual, f"{name}_grad"), total.reshape(shape),
            off.reshape(shape),
        )  # fmt: skip
        spread = getattr(actual, f"{name}_variance")
        if spread is not None:
            variance = ((values - total / samples) ** 2).sum(0) / max(1, samples - 1)
            allowed = unit * (np.sqrt(samples) + 2) * (sizes**2).mean(0) + floor
            assert_within(
                f"{name}_variance", spread, variance.reshape(shape), allowed.reshape(shape)
            )
        # Sums over the coordinates are kept in float64, whose rounding grows with their number.
        row = wide + SAFETY * np.finfo(np.float64).eps * np.sqrt(values.shape[1])
        norms += (values**2).sum(1)
        norms_off += row * (sizes**2).sum(1)
        products += values @ total
        products_off += row * np.sqrt((sizes**2).sum(1) * (sizes.sum(0) ** 2).sum())
        if unit > wide:
            # Roundings of the elements are independent, and so add up by their root.
            norms_off += unit * np.sqrt((sizes**4).sum(1)) + unit**2 * (sizes**2).sum(1)
            products_off += unit * np.sqrt((sizes**2 * sizes.sum(0) ** 2).sum(1))
    assert_within("sq_norms", actual.sq_norms, norms, norms_off + floor)
    if actual.inner_products is not None:
        assert_within("inner_products", actual.inner_products, products, products_off + floor)
