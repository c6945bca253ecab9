"""What a careful user would write in plain torch for the outputs of the ops.

The variance is by deviations, as the op's is; norms and products stay in float32, which costs
these expressions nothing and spares them a conversion.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Moments = tuple[Tensor, Tensor, Tensor, Tensor]

#: Bytes of G that the blocked expression works on at a time, so that they stay in the cache.
BLOCK_BYTES = 1 << 19


def plain(grads: Tensor) -> Moments:
    """Four reductions, four reads of G."""
    variance, mean = torch.var_mean(grads, 0)
    return mean, variance, torch.linalg.vecdot(grads, grads), grads @ mean


def by_matrix_products(grads: Tensor) -> Moments:
    """The mean and the norms as products with the BLAS; the deviations take a copy of G."""
    samples = len(grads)
    mean = grads.new_ones(samples) @ grads / samples
    norms = torch.bmm(grads[:, None], grads[:, :, None]).view(samples)
    deviations = grads - mean
    variance = torch.einsum("ij,ij->j", deviations, deviations) / (samples - 1)
    return mean, variance, norms, grads @ mean


def by_elements(grads: Tensor) -> Moments:
    """Elementwise kernels and sums; copies of G, but every kernel is vectorised."""
    mean = grads.mean(0)
    variance = (grads - mean).square_().sum(0) / (len(grads) - 1)
    return mean, variance, grads.square().sum(1), grads @ mean


def blocked(grads: Tensor) -> Moments:
    """Columns a block at a time: G is read from memory once, and from the cache afterwards."""
    samples, features = grads.shape
    width = max(64, BLOCK_BYTES // (samples * grads.element_size()))
    ones = grads.new_ones(samples)
    norms, products = grads.new_zeros(samples), grads.new_zeros(samples)
    mean, variance = grads.new_empty(features), grads.new_empty(features)
    for start in range(0, features, width):
        block = grads[:, start : start + width]
        center = torch.mv(block.t(), ones, out=mean[start : start + width]).div_(samples)
        norms += torch.linalg.vecdot(block, block)
        products.addmv_(block, center)
        deviations = (block - center).square_()
        torch.mv(deviations.t(), ones, out=variance[start : start + width])
    return mean, variance.div_(samples - 1), norms, products


def add_chunk(
    total: Tensor, squares: Tensor | None, norms: Tensor, chunk: Tensor, samples: int
) -> None:
    """Rows added to the sum and squared deviations of others: `accumulate_moments_`."""
    rows = len(chunk)
    norms.copy_(torch.linalg.vector_norm(chunk, dim=1, dtype=torch.float32).square_())
    added = chunk.sum(0, dtype=total.dtype)
    if squares is not None:
        mean = added / rows
        apart = mean - total / samples
        squares.add_((chunk - mean).square_().sum(0))
        squares.addcmul_(apart, apart, value=samples * rows / (samples + rows))
    total.add_(added)


EAGER: dict[str, Callable[[Tensor], Moments]] = {
    "plain": plain,
    "by_matrix_products": by_matrix_products,
    "by_elements": by_elements,
    "blocked": blocked,
}


def step(param: Tensor, state_sum: Tensor, mean: Tensor, lr: float) -> None:
    """AdaGrad's update along a mean gradient."""
    state_sum.addcmul_(mean, mean)
    param.addcdiv_(mean, state_sum.sqrt().add_(1e-10), value=-lr)
