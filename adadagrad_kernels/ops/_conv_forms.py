"""The equivalent forms of a convolution's moments, and which of them computes least.

A convolution is a linear layer on the patches of its input, [kernel elements, positions] of each
sample and group.

    kernel   this package's own, on the CPU: patches are never written out
    gram     few positions: norms from the products of a sample's patches with each other
    grouped  the samples as groups of one convolution's weight gradient, chunk by chunk
    unfold   patches and their products with the output gradients, chunk by chunk
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels import backends
from adadagrad_kernels.checks import ACCUMULATION_DTYPES
from adadagrad_kernels.ops._layer_moments import Outputs
from adadagrad_kernels.ops._linear_forms import gram_norms
from adadagrad_kernels.ops._products import (
    PASS,
    SMALL_PRODUCT_SPEED,
    chunk_samples,
    chunked_moments,
    narrow,
    product_chunk,
)

#: The kernel's way of a contribution to cache and back, in multiplications for each element; and
#: its time over the vendor's in narrow types, since it computes in float32 whatever the type.
_KERNEL_PASS, _NARROW_KERNEL = 4.0, 2.0
#: The time of samples as groups over one plain weight gradient.
_GROUPED = 1.25
#: Writing an element of a patch costs as much as so many multiplications.
_UNFOLD = 12.0
#: Fewer positions or channels than these leave the vendor's groups nothing to work on.
_GROUPED_POSITIONS, _GROUPED_CHANNELS = 256, 32


class ConvGeometry(NamedTuple):
    """One number for each spatial dimension, and the groups of channels."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def patches(self, inputs: Tensor) -> Tensor:
        """``[samples, groups, channels of a group, positions, kernel elements]``, written out."""
        padded = F.pad(inputs, [side for p in reversed(self.padding) for side in (p, p)])
        settings = zip(self.kernel_size, self.stride, self.dilation, strict=True)
        for axis, (kernel, step, spread) in enumerate(settings, start=2):
            padded = padded.unfold(axis, spread * (kernel - 1) + 1, step)[..., ::spread]
        positions = padded.shape[2 : 2 + len(self.kernel_size)].numel()
        elements = torch.Size(self.kernel_size).numel()
        return padded.reshape(len(inputs), self.groups, -1, positions, elements)

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


def conv_form(
    channels: int,
    out_channels: int,
    positions: int,
    geometry: ConvGeometry,
    *,
    kernel: bool,
    variance: bool,
    inner_products: bool,
    dtype: torch.dtype = torch.float32,
) -> str:
    """The form that costs least, by sizes, types and what is asked alone.

    Args:
        channels: of the input.
        out_channels: of the output.
        positions: of the output.
        geometry: of the convolution.
        kernel: whether this package's own kernel can run.
        variance: whether it is measured.
        inner_products: likewise.
        dtype: of the elements.
    """
    groups = geometry.groups
    patch = channels // groups * torch.Size(geometry.kernel_size).numel()
    product = positions * patch * out_channels
    written = _UNFOLD * positions * patch * groups
    again = product if inner_products else 0
    passed = PASS * patch * out_channels
    costs = {"unfold": product + 2 * written + passed + again}
    if kernel:
        # It takes inner products from cache.
        speed = _NARROW_KERNEL if narrow(dtype) else 1.0
        costs["kernel"] = speed * (product + _KERNEL_PASS * patch * out_channels)
    enough = positions >= _GROUPED_POSITIONS and channels // groups >= _GROUPED_CHANNELS
    if narrow(dtype) and kernel and enough:
        costs["grouped"] = product * _GROUPED + passed + again
    if not variance and not inner_products:
        grams = positions**2 * (patch * groups + out_channels) / SMALL_PRODUCT_SPEED
        costs["gram"] = product + written + grams
    return min(costs, key=lambda form: costs[form])


def conv_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    geometry: ConvGeometry,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> Outputs:
    """Moments of ``[samples, channels, *spatial]``, none of whose dimensions is empty."""
    backend = backends.select(inputs.device, inputs.dtype)
    kernel = getattr(backend, "conv_moments", None)
    asked = {"variance": variance, "inner_products": inner_products}
    form = conv_form(
        inputs.shape[1],
        grad_outputs.shape[1],
        grad_outputs.shape[2:].numel(),
        geometry,
        kernel=kernel is not None,
        dtype=inputs.dtype,
        **asked,
    )
    if kernel is not None and torch.are_deterministic_algorithms_enabled():
        form = "kernel"  # whose bits no number of threads changes
    if form == "kernel" and kernel is not None:
        outputs: Outputs = kernel(inputs, grad_outputs, *geometry, bias, variance, inner_products)
        return outputs
    if form == "gram":
        return _gram(inputs, grad_outputs, geometry, bias)
    return _chunks(inputs, grad_outputs, geometry, bias, variance, inner_products, form)


def _gram(inputs: Tensor, grad_outputs: Tensor, geometry: ConvGeometry, bias: bool) -> Outputs:
    """Norms from the products of patches, group by group; the gradient is autograd's."""
    dtype = ACCUMULATION_DTYPES[inputs.dtype]
    weight_grad = geometry.weight_grad(inputs, grad_outputs).to(dtype)
    sq_norms = torch.empty(len(inputs), dtype=torch.float64, device=inputs.device)
    for rows in _rows_of_patches(inputs, grad_outputs, geometry):
        patches = geometry.patches(inputs[rows]).to(dtype)
        count, groups, _, positions, _ = patches.shape
        x = patches.transpose(3, 4).reshape(count * groups, -1, positions).mT
        y = grad_outputs[rows].to(dtype).reshape(count * groups, -1, positions).mT
        sq_norms[rows] = gram_norms(x, y, bias).view(count, groups).sum(1)
    nothing = weight_grad.new_empty(0)
    bias_grad = nothing
    if bias:
        axes = [0, *range(2, grad_outputs.dim())]
        bias_grad = grad_outputs.sum(axes).to(dtype)
    return weight_grad, bias_grad, sq_norms, nothing, nothing, sq_norms.new_empty(0)


def _patch_elements(inputs: Tensor, grad_outputs: Tensor, geometry: ConvGeometry) -> int:
    """Of a sample's patches, written out."""
    elements = torch.Size(geometry.kernel_size).numel()
    return inputs.shape[1] * elements * grad_outputs.shape[2:].numel()


def _rows_of_patches(
    inputs: Tensor, grad_outputs: Tensor, geometry: ConvGeometry
) -> Iterator[slice]:
    """Samples whose patches are a chunk."""
    elements = _patch_elements(inputs, grad_outputs, geometry)
    size = chunk_samples(len(inputs), elements, inputs.dtype, inputs.device)
    for start in range(0, len(inputs), size):
        yield slice(start, min(start + size, len(inputs)))


def _chunks(
    inputs: Tensor,
    grad_outputs: Tensor,
    geometry: ConvGeometry,
    bias: bool,
    variance: bool,
    inner_products: bool,
    form: str,
) -> Outputs:
    """The contributions of some samples at a time, added to running sums."""
    dtype = ACCUMULATION_DTYPES[inputs.dtype]
    samples, out_channels = grad_outputs.shape[:2]
    groups = geometry.groups
    shape = (out_channels, inputs.shape[1] // groups, *geometry.kernel_size)

    def grouped(rows: slice, chunk: Tensor) -> Tensor:
        count = rows.stop - rows.start
        one, other = (z[rows].reshape(1, -1, *z.shape[2:]) for z in (inputs, grad_outputs))
        return geometry.weight_grad(one, other, count)

    def unfolded(rows: slice, chunk: Tensor) -> Tensor:
        patches = geometry.patches(inputs[rows])
        count, _, _, positions, _ = patches.shape
        x = patches.transpose(3, 4).reshape(count * groups, -1, positions)
        y = grad_outputs[rows].reshape(count * groups, -1, positions)
        return product_chunk(y, x.mT, chunk.view(count * groups, y.shape[1], x.shape[1]))

    contributions = grouped if form == "grouped" else unfolded
    # Patches take more than what they add up to.
    patches = _patch_elements(inputs, grad_outputs, geometry) if form == "unfold" else 0
    weight = chunked_moments(contributions, samples, shape, grad_outputs, variance, patches)
    products = None
    if inner_products:
        products = _along_gradient(inputs, grad_outputs, geometry, weight.sum)
    sums = grad_outputs.flatten(2).sum(2, dtype=dtype) if bias else None
    return weight.with_bias(sums, products)


def _along_gradient(
    inputs: Tensor, grad_outputs: Tensor, geometry: ConvGeometry, weight_grad: Tensor
) -> Tensor:
    """<h_i, gradient> = <y_i, convolution of x_i with the gradient>."""
    dtype = weight_grad.dtype
    run = (F.conv1d, F.conv2d, F.conv3d)[len(geometry.kernel_size) - 1]
    along = run(
        inputs.to(dtype),
        weight_grad,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
    )
    return along.mul_(grad_outputs).flatten(1).sum(1, dtype=torch.float64)
