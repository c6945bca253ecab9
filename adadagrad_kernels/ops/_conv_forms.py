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

import torch
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels import backends
from adadagrad_kernels.backends.conv_geometry import ConvGeometry
from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.checks import ACCUMULATION_DTYPES
from adadagrad_kernels.ops._layer_moments import with_bias
from adadagrad_kernels.ops._linear_forms import gram_norms
from adadagrad_kernels.ops._products import (
    PASS,
    chunk_samples,
    chunked_moments,
    in_product_type,
    narrow,
    product_chunk,
    products_with_gradient,
)

#: The kernel's way of a contribution to cache and back, in multiplications for each element.
_KERNEL_PASS = 4.0
#: What samples as groups cost beside one plain weight gradient, for each element of a contribution.
_GROUPED = 90.0
#: Writing an element of a patch costs as much as so many multiplications.
_UNFOLD = 12.0
#: Products of a sample's patches with each other run at this fraction of a large one's speed.
_GRAM_SPEED = 0.6
#: oneDNN's narrow weight gradient costs so much more for each of its elements: of 16 positions it
#: takes four times as long as of 256 with as many multiplications.
_NARROW_GRADIENT = 48.0
#: Rows of an output that are shorter than this are copied channel by channel.
_LONG_ROW = 16
#: Fewer positions or channels than these leave the vendor's groups nothing to work on.
_GROUPED_POSITIONS, _GROUPED_CHANNELS = 256, 16


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
        inner_products: whether they are measured.
        dtype: of the elements.
    """
    groups = geometry.groups
    patch = channels // groups * torch.Size(geometry.kernel_size).numel()
    elements = patch * out_channels
    product = positions * elements
    written = _UNFOLD * positions * patch * groups
    # A narrow type is multiplied twice as fast; what is computed in float32 counts twice.
    wide = 2.0 if narrow(dtype) else 1.0
    again = product if inner_products else 0
    passed = wide * PASS * elements
    costs = {"unfold": product + written + passed + again}
    if kernel:
        # It takes inner products from cache.
        costs["kernel"] = wide * (product + _KERNEL_PASS * elements)
    enough = positions >= _GROUPED_POSITIONS and channels // groups >= _GROUPED_CHANNELS
    if narrow(dtype) and kernel and enough:
        costs["grouped"] = product + _GROUPED * elements + again
    if not variance and not inner_products:
        grams = wide * positions**2 * (patch * groups + out_channels) / _GRAM_SPEED
        gradient = product + (_NARROW_GRADIENT * elements if narrow(dtype) and kernel else 0)
        costs["gram"] = gradient + written + grams
    return min(costs, key=lambda form: costs[form])


def conv_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    geometry: ConvGeometry,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """Moments of ``[samples, channels, *spatial]``, none of whose dimensions is empty."""
    # Other forms than the kernel take passes over what torch's products give.
    backend = backends.select(inputs.device, inputs.dtype, "accumulate_moments_")
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
        moments: LayerMoments
        moments = kernel(inputs, grad_outputs, geometry, bias, variance, inner_products)
        return moments
    if form == "gram":
        return _gram(inputs, grad_outputs, geometry, bias)
    return _chunks(inputs, grad_outputs, geometry, bias, variance, inner_products, form)


def _gram(inputs: Tensor, grad_outputs: Tensor, geometry: ConvGeometry, bias: bool) -> LayerMoments:
    """Norms from the products of patches, group by group; the gradient is autograd's."""
    dtype = ACCUMULATION_DTYPES[inputs.dtype]
    weight_grad = geometry.weight_grad(inputs, grad_outputs).to(dtype)
    sq_norms = torch.empty(len(inputs), dtype=torch.float64, device=inputs.device)
    inside = _channels_inside(inputs, grad_outputs.shape[-1])
    for rows in _rows_of_patches(inputs, grad_outputs, geometry):
        x = geometry.patches(inputs[rows], inside).to(dtype)
        y = grad_outputs[rows].to(dtype).reshape(len(x), -1, x.shape[1]).mT
        sq_norms[rows] = gram_norms(x, y, bias).view(-1, geometry.groups).sum(1)
    bias_grad = None
    if bias:
        axes = [0, *range(2, grad_outputs.dim())]
        bias_grad = grad_outputs.sum(axes).to(dtype)
    return LayerMoments(weight_grad, bias_grad, sq_norms, None, None, None)


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


def _channels_inside(inputs: Tensor, width: int) -> bool:
    """Whether copying runs of channels makes patches sooner than runs of an output's row."""
    return width < _LONG_ROW or inputs.movedim(1, -1).is_contiguous()


def _chunks(
    inputs: Tensor,
    grad_outputs: Tensor,
    geometry: ConvGeometry,
    bias: bool,
    variance: bool,
    inner_products: bool,
    form: str,
) -> LayerMoments:
    """The contributions of some samples at a time, added to running sums."""
    dtype = ACCUMULATION_DTYPES[inputs.dtype]
    out_channels, channels, *kernel = geometry.weight_shape(inputs, grad_outputs)
    inside = form == "unfold" and _channels_inside(inputs, grad_outputs.shape[-1])
    # Of few positions, oneDNN multiplies narrow types sooner when the longer side is the rows.
    across = inside and geometry.groups == 1 and narrow(inputs.dtype)
    shape = (out_channels, *((*kernel, channels) if inside else (channels, *kernel)))
    if across:
        shape = (*shape[1:], out_channels)

    def grouped(rows: slice, chunk: Tensor) -> Tensor:
        count = rows.stop - rows.start
        one, other = (z[rows].reshape(1, -1, *z.shape[2:]) for z in (inputs, grad_outputs))
        return geometry.weight_grad(one, other, count)

    def unfolded(rows: slice, chunk: Tensor) -> Tensor:
        x = geometry.patches(inputs[rows], inside)
        y = grad_outputs[rows].reshape(len(x), -1, x.shape[1]).mT
        left, right = (x, y) if across else (y, x)
        memory = chunk.view(len(x), left.shape[2], right.shape[2])
        return product_chunk(left, right, memory)

    contributions = grouped if form == "grouped" else unfolded
    # Patches take more than what they add up to.
    patches = _patch_elements(inputs, grad_outputs, geometry) if form == "unfold" else 0
    weight = chunked_moments(contributions, grad_outputs, shape, variance, patches)
    if across:
        weight = _moved(weight, -1, 0)
    if inside:
        weight = _moved(weight, -1, 1)
    if inner_products:
        products = _along_gradient(inputs, grad_outputs, geometry, weight.weight_grad)
        weight = weight._replace(inner_products=products)
    return with_bias(weight, grad_outputs.flatten(2).sum(2, dtype=dtype) if bias else None)


def _moved(moments: LayerMoments, source: int, destination: int) -> LayerMoments:
    """With a dimension of the weight at another place."""
    grad, variance = moments.weight_grad, moments.weight_variance
    if variance is not None:
        variance = variance.movedim(source, destination).contiguous()
    grad = grad.movedim(source, destination).contiguous()
    return moments._replace(weight_grad=grad, weight_variance=variance)


def _along_gradient(
    inputs: Tensor, grad_outputs: Tensor, geometry: ConvGeometry, weight_grad: Tensor
) -> Tensor:
    """<h_i, gradient> = <y_i, convolution of x_i with the gradient>."""
    inputs, grad_outputs, weight_grad = in_product_type(inputs, grad_outputs, weight_grad)
    run = (F.conv1d, F.conv2d, F.conv3d)[len(geometry.kernel_size) - 1]
    along = run(
        inputs,
        weight_grad,
        None,
        geometry.stride,
        geometry.padding,
        geometry.dilation,
        geometry.groups,
    )
    return products_with_gradient(along, grad_outputs)
