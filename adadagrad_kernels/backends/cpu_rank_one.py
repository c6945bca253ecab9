"""Linear layers with one position, or few, where a contribution h_i is a product or a short sum.

Matrix products run on this package's own tiles: those of a BLAS change their order of sums, and so
their bits, with the number of threads. Batches of small ones, each of which runs on one thread, are
torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import _native
from adadagrad_kernels.backends.cpu_product_forms import products_by_gram
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import ACCUMULATION_DTYPES, address

Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]

_C: Any = _native.C

#: Samples of a block of the products of all pairs of samples: four blocks of 512 take 5/8 of the
#: multiplications, and a block still fills the tiles.
_GRAM_BLOCK = 128


def linear_moments(
    inputs: Tensor, grad_outputs: Tensor, bias: bool, variance: bool, inner_products: bool
) -> Outputs:
    """Moments of h_i = (y_i x_i', y_i) for ``[samples, 1, features]``.

    The sum of squares of all h_i is the product of squared output gradients and inputs, and the
    variance its difference from the squared mean: deviations are no matrix product. What that costs
    in digits is in docs/numerics.md.
    """
    x, y = inputs.squeeze(1), grad_outputs.squeeze(1)
    samples = len(x)
    weight_grad = _product(x, y)
    nothing = weight_grad.new_empty(0)
    x_norms = _moments(x)[2]
    y_mean, y_variance, y_norms, y_products = _moments(
        y, variance and bias, inner_products and bias
    )
    sq_norms = torch.addcmul(y_norms, x_norms, y_norms) if bias else x_norms * y_norms
    weight_variance = nothing
    if variance:
        weight_variance = _variance(x, y, weight_grad)
    products = sq_norms.new_empty(0)
    if inner_products:
        products = y_products.mul_(samples) if bias else torch.zeros_like(sq_norms)
        _add_products(x, y, weight_grad, products)
    return (
        weight_grad,
        y_mean.mul_(samples) if bias else nothing,
        sq_norms,
        weight_variance,
        y_variance if variance and bias else nothing,
        products,
    )


def gram_norms(inputs: Tensor, grad_outputs: Tensor, bias: bool) -> Outputs:
    """Gradient and norms alone, from the products of a sample's positions with each other."""
    samples = len(inputs)
    x, y = _rows(inputs), _rows(grad_outputs)
    weight_grad = _product(x, y)
    nothing = weight_grad.new_empty(0)
    dtype = weight_grad.dtype
    x_gram, y_gram = (torch.bmm(z, z.mT) for z in (inputs.to(dtype), grad_outputs.to(dtype)))
    if bias:
        x_gram += 1
    sq_norms = torch.zeros(samples, dtype=torch.float64)
    _add_row_dots(x_gram.flatten(1), y_gram.flatten(1), sq_norms)
    bias_grad = _moments(y)[0].mul_(len(y)) if bias else nothing
    return weight_grad, bias_grad, sq_norms, nothing, nothing, sq_norms.new_empty(0)


def _rows(sequences: Tensor) -> Tensor:
    """All positions of all samples, with adjacent features."""
    rows = sequences.flatten(0, 1)
    return rows if rows.shape[1] <= 1 or rows.stride(1) == 1 else rows.contiguous()


def _moments(matrix: Tensor, variance: bool = False, inner_products: bool = False) -> Any:
    from adadagrad_kernels.backends.cpu import batch_moments

    return batch_moments(matrix, variance, inner_products)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Y' x, summed over the rows, in the type of the sums."""
    product = torch.empty(y.shape[1], x.shape[1], dtype=ACCUMULATION_DTYPES[x.dtype])
    norm = torch.empty(1, dtype=torch.float64)
    _C.linear_moments(
        address(x),
        address(y),
        TYPE_CODES[x.dtype],
        (1, len(x), x.shape[1], y.shape[1]),
        (0, x.stride(0)),
        (0, y.stride(0)),
        (product.data_ptr(), 0, norm.data_ptr(), 0, 0),
        torch.get_num_threads(),
    )
    return product


def _variance(x: Tensor, y: Tensor, weight_grad: Tensor) -> Tensor:
    samples = len(x)
    dtype = weight_grad.dtype
    x_squares, y_squares = x.to(dtype).square(), y.to(dtype).square()
    smaller = x_squares if x.shape[1] < y.shape[1] else y_squares
    smaller /= samples - 1
    squares = _product(x_squares, y_squares)
    _C.rank_one_variance(
        weight_grad.data_ptr(),
        squares.data_ptr(),
        TYPE_CODES[dtype],
        squares.numel(),
        1 / (samples * (samples - 1)),
        torch.get_num_threads(),
    )
    return squares


def _add_products(x: Tensor, y: Tensor, weight_grad: Tensor, products: Tensor) -> None:
    """Add <y_i x_i', weight_grad> to ``products``."""
    dtype = weight_grad.dtype
    x, y = x.to(dtype), y.to(dtype)
    if products_by_gram(len(x), x.shape[1], y.shape[1]):
        _add_gram_sums(x.t().contiguous(), y.t().contiguous(), products)
    else:
        left = _product(weight_grad.t().contiguous(), x.t().contiguous())
        _add_row_dots(left, y.contiguous(), products)


def _add_gram_sums(x: Tensor, y: Tensor, products: Tensor) -> None:
    """Add sum_k (x_i . x_k) (y_i . y_k), for ``[features, samples]``.

    The matrices are symmetric: blocks of samples meet themselves and those after them, and what is
    beyond the block counts for both.
    """
    samples = x.shape[1]
    for start in range(0, samples, _GRAM_BLOCK):
        end = min(start + _GRAM_BLOCK, samples)
        left, right = (_product(z[:, start:], z[:, start:end]) for z in (x, y))
        _add_row_dots(left, right, products[start:end])
        if end < samples:
            beyond = slice(end - start, None)
            left, right = (block[:, beyond].t().contiguous() for block in (left, right))
            _add_row_dots(left, right, products[end:])


def _add_row_dots(left: Tensor, right: Tensor, dots: Tensor) -> None:
    _C.row_dots(
        left.data_ptr(),
        right.data_ptr(),
        TYPE_CODES[left.dtype],
        *left.shape,
        dots.data_ptr(),
        torch.get_num_threads(),
    )
