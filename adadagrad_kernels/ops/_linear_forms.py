"""The equivalent forms of a linear layer's moments, and which of them computes least.

With inputs x_it and output gradients y_it of sample i at position t, h_i = sum_t y_it x_it'.

    rank one  one position: |h_i|^2 = |x_i|^2 |y_i|^2, and sum_i h_i^2 is one product of squares
    gram      few positions: |h_i|^2 = sum_{t, t'} (x_it . x_it') (y_it . y_it')
              (the ghost norm of Li, Tramer, Liang, Hashimoto 2022, arXiv 2110.05679)
    samples   every h_i of some samples at a time, added to running sums while they are in cache
    rows      some rows of every h_i at a time, whose mean is then known: inner products with it
              come from the same pass

Products are torch's, so the vendor's of each device; what is ours is the pass over h_i. Rank one
and gram multiply as autograd does, and their gradient has its bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends import reference
from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.checks import ACCUMULATION_DTYPES
from adadagrad_kernels.ops._layer_moments import with_bias
from adadagrad_kernels.ops._products import (
    PASS,
    SMALL_PRODUCT_SPEED,
    chunk_rows,
    chunk_samples,
    chunked_moments,
    flat_product,
    in_product_type,
    narrow,
    position_sums,
    product_chunk,
    products_with_gradient,
)

#: Narrow types multiply faster, beside which a pass is longer; with inner products it is two.
_NARROW_PASS = 3.0
_TWO_PASSES = 2.0
#: A product of few rows spends as long on packing the other operand as on this many rows.
_PACKED_ROWS = 24.0
#: Samples of a block of the products of all pairs: four blocks of 512 take 5/8 of the
#: multiplications.
_PAIRS_BLOCK = 128


def linear_form(
    samples: int,
    positions: int,
    in_features: int,
    out_features: int,
    *,
    variance: bool,
    inner_products: bool,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> str:
    """The form that costs least, by sizes, types and what is asked alone."""
    if positions == 1:
        return "rank one"
    elements = in_features * out_features
    product = positions * elements
    passed = PASS * elements * (_NARROW_PASS if narrow(dtype) else 1.0)
    again = product if inner_products else 0
    costs = {"samples": product + passed + again}
    if not variance:
        grams = positions**2 * (in_features + out_features) / SMALL_PRODUCT_SPEED
        costs["gram"] = product + grams + again
    if inner_products:
        rows = _rows_at_once(samples, in_features, out_features, dtype, device)
        costs["rows"] = product * (1 + _PACKED_ROWS / rows) + _TWO_PASSES * passed
    return min(costs, key=lambda form: costs[form])


def linear_moments(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> LayerMoments:
    """Moments of ``[samples, positions, features]``, none of whose dimensions is empty."""
    samples, positions, in_features = inputs.shape
    form = linear_form(
        samples,
        positions,
        in_features,
        grad_outputs.shape[2],
        variance=variance,
        inner_products=inner_products,
        dtype=inputs.dtype,
        device=inputs.device,
    )
    compute = {"rank one": _rank_one, "gram": _gram, "samples": _samples, "rows": _rows}[form]
    return compute(inputs, grad_outputs, bias, variance, inner_products)


def _rank_one(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> LayerMoments:
    """h_i = (y_i x_i', y_i).

    The variance is a difference of squares: deviations are no product.
    docs/reference/numerics.md says what that costs in digits.
    """
    x, y = inputs.squeeze(1), grad_outputs.squeeze(1)
    samples = len(x)
    backend = backends.select(x.device, x.dtype, "batch_moments")
    weight_grad = flat_product(y, x)
    bias_grad = y.sum(0).to(weight_grad.dtype) if bias else None
    x_norms = backend.batch_moments(x, False, False).sq_norms
    of_bias = backend.batch_moments(y, variance and bias, False)
    y_norms = of_bias.sq_norms
    sq_norms = torch.addcmul(y_norms, x_norms, y_norms) if bias else x_norms * y_norms
    weight_variance = None
    if variance:
        wide_x, wide_y = (z.to(weight_grad.dtype) for z in (x, y))
        smaller, larger = sorted((wide_x, wide_y), key=lambda z: z.shape[1])
        scaled = smaller.square().div_(samples - 1)
        squares = larger.square()
        pair = (scaled, squares) if larger is wide_x else (squares, scaled)
        weight_variance = pair[0].t().mm(pair[1])
        _subtract_square(weight_variance, weight_grad, 1 / (samples * (samples - 1)))
    products = None
    if inner_products:
        wide_x, wide_y = (z.to(weight_grad.dtype) for z in (x, y))
        features = x.shape[1], y.shape[1]
        if samples * sum(features) * 5 < features[0] * features[1] * 8:
            products = _by_pairs(wide_x, wide_y, bias)
        else:
            products = _by_gradient(x, y, weight_grad, bias_grad)
    return LayerMoments(
        weight_grad, bias_grad, sq_norms, weight_variance, of_bias.variance, products
    )


def _subtract_square(squares: Tensor, grad: Tensor, scale: float) -> None:
    """In one pass where the backend has it."""
    backend = backends.select(squares.device, squares.dtype, "batch_moments")
    run = getattr(backend, "subtract_square_", reference.subtract_square_)
    run(squares, grad, scale)


def _by_pairs(x: Tensor, y: Tensor, bias: bool) -> Tensor:
    """<h_i, sum_k h_k> = sum_k (x_i . x_k) (y_i . y_k), and with a bias x_i . x_k + 1.

    The matrices are symmetric: blocks of samples meet themselves and those after them, and what is
    beyond the block counts for both.
    """
    samples = len(x)
    products = torch.zeros(samples, dtype=torch.float64, device=x.device)
    for start in range(0, samples, _PAIRS_BLOCK):
        block = slice(start, min(start + _PAIRS_BLOCK, samples))
        pairs = x[start:].mm(x[block].t())
        if bias:
            pairs += 1
        pairs *= y[start:].mm(y[block].t())
        size = pairs.shape[1]
        products[block] += pairs.sum(0, dtype=torch.float64)
        products[block.stop :] += pairs[size:].sum(1, dtype=torch.float64)
    return products


def _by_gradient(x: Tensor, y: Tensor, weight_grad: Tensor, bias_grad: Tensor | None) -> Tensor:
    """<h_i, gradient> = sum_t y_it' gradient x_it, with the bias as an input of one.

    Args:
        x: ``[samples, features]``, or with positions between.
        y: ``[samples, features]``, with the positions of ``x``.
        weight_grad: ``[out_features, in_features]``.
        bias_grad: ``[out_features]``, or None.
    """
    x, y, weight_grad = in_product_type(x, y, weight_grad)
    # Compact: of an odd number of columns oneDNN's bfloat16 reads one more, which may hold a NaN.
    along = x.reshape(-1, x.shape[-1]).contiguous().mm(weight_grad.t()).view(y.shape)
    if bias_grad is not None:
        along += bias_grad.to(x.dtype)
    return products_with_gradient(along, y)


def _gram(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> LayerMoments:
    """Norms from the products of a sample's positions with each other."""
    weight_grad = flat_product(grad_outputs.flatten(0, 1), inputs.flatten(0, 1))
    dtype = weight_grad.dtype
    bias_grad = grad_outputs.flatten(0, 1).sum(0).to(dtype) if bias else None
    x, y = inputs.to(dtype), grad_outputs.to(dtype)
    sq_norms = gram_norms(x, y, bias)
    products = None
    if inner_products:
        products = _by_gradient(inputs, grad_outputs, weight_grad, bias_grad)
    return LayerMoments(weight_grad, bias_grad, sq_norms, None, None, products)


def gram_norms(x: Tensor, y: Tensor, bias: bool) -> Tensor:
    """|h_i|^2 of ``[samples, positions, features]``, where positions that agree count as many."""
    sq_norms = torch.empty(len(x), dtype=torch.float64, device=x.device)
    size = chunk_samples(len(x), x.shape[1] ** 2, x.dtype, x.device)
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        pairs = torch.bmm(x[rows], x[rows].mT)
        if bias:
            pairs += 1
        pairs *= torch.bmm(y[rows], y[rows].mT)
        sq_norms[rows] = pairs.flatten(1).sum(1, dtype=torch.float64)
    return sq_norms


def _samples(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> LayerMoments:
    """A chunk of contributions at a time, added to running sums."""
    dtype = ACCUMULATION_DTYPES[inputs.dtype]
    samples, _, out_features = grad_outputs.shape
    sums = grad_outputs.new_empty(samples, out_features, dtype=dtype) if bias else None

    def contributions(rows: slice, chunk: Tensor) -> Tensor:
        of_bias = None if sums is None else sums[rows]
        return product_chunk(grad_outputs[rows], inputs[rows], chunk, of_bias)

    shape = (out_features, inputs.shape[2])
    weight = chunked_moments(contributions, grad_outputs, shape, variance)
    if inner_products:
        products = _by_gradient(inputs, grad_outputs, weight.weight_grad, None)
        weight = weight._replace(inner_products=products)
    return with_bias(weight, sums)


def _rows_at_once(
    samples: int,
    in_features: int,
    out_features: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> int:
    """Rows of every sample's contribution in one chunk, of its longer side."""
    shorter, longer = sorted((in_features, out_features))
    return chunk_rows(longer, samples * shorter, dtype, device)


def _rows(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> LayerMoments:
    """Some rows of all contributions at a time, or some columns where these are longer."""
    samples, _, in_features = inputs.shape
    out_features = grad_outputs.shape[2]
    across = in_features > out_features
    one, other = (inputs, grad_outputs) if across else (grad_outputs, inputs)
    size = _rows_at_once(samples, in_features, out_features, inputs.dtype, inputs.device)
    whole = LayerMoments.empty(inputs, (one.shape[2], other.shape[2]), None, variance, False)
    weight_grad, _, sq_norms, weight_variance, *_ = whole
    products = torch.zeros_like(sq_norms.zero_())
    backend = backends.select(inputs.device, inputs.dtype, "batch_moments")
    memory: Tensor | None = None
    for start in range(0, one.shape[2], size):
        part = slice(start, min(start + size, one.shape[2]))
        shape = (samples, part.stop - start, other.shape[2])
        if memory is None or memory.shape != shape:
            memory = inputs.new_empty(shape)
        chunk = product_chunk(one[:, :, part], other, memory)
        mean, spread, norms, along = backend.batch_moments(chunk.flatten(1), variance, True)
        torch.mul(mean.view(shape[1:]), samples, out=weight_grad[part])
        if weight_variance is not None:
            weight_variance[part] = spread.view(shape[1:])
        sq_norms += norms
        products.add_(along, alpha=samples)
    if across:
        weight_grad = weight_grad.t().contiguous()
        if weight_variance is not None:
            weight_variance = weight_variance.t().contiguous()
    weight = LayerMoments(weight_grad, None, sq_norms, weight_variance, None, products)
    return with_bias(weight, position_sums(grad_outputs) if bias else None)
