"""Statistics of a batch from its per-sample gradients, in one pass over them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import ACCUMULATION_DTYPES, check_per_sample_grads
from adadagrad_kernels.ops._library import register


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


def batch_moments(
    per_sample_grads: Tensor, *, variance: bool = True, inner_products: bool = True
) -> BatchMoments:
    r"""Mean, coordinate-wise variance, squared norms and inner products of per-sample gradients.

    With rows :math:`g_1, \dots, g_b` and their mean :math:`\bar g`,

    .. math::
        \mathrm{Var}_j = \frac{1}{b-1} \sum_i (g_{ij} - \bar g_j)^2, \qquad
        s_i = \lVert g_i \rVert^2, \qquad p_i = \langle g_i, \bar g \rangle,

    the quantities of the norm and inner-product tests (Byrd, Chin, Nocedal, Wu 2012, eq. 3.9;
    Bollapragada, Byrd, Nocedal 2018, eqs. 2.6 and 3.3). The variance is a sum of squared
    deviations, never a difference of squares. Sums run in a fixed order: results are bitwise the
    same from run to run and for any number of threads. Non-finite values propagate.

    Without inner products G is read from memory once. With them it is read once while a column
    tile of all rows stays in cache, and twice beyond some thousand rows.

    Args:
        per_sample_grads: G ``[samples, features]`` in float32, bfloat16, float16 or float64. Rows
            may be any distance apart; the elements of a row are adjacent.
        variance: whether to measure the variance.
        inner_products: whether to measure the inner products.

    Raises:
        ValueError: for a tensor that is not 2-D, has no samples or only one where a variance is
            asked, has another dtype or layout, lacks storage, or requires grad outside no_grad.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import batch_moments
        >>> moments = batch_moments(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
        >>> moments.mean, moments.variance
        (tensor([2., 2.]), tensor([2., 0.]))
        >>> moments.sq_norms, moments.inner_products.tolist()
        (tensor([ 5., 13.], dtype=torch.float64), [6.0, 10.0])
    """
    if torch.compiler.is_compiling():
        outputs = _operator(per_sample_grads, variance, inner_products)
    else:
        outputs = _run(per_sample_grads, variance, inner_products)
    return pack(outputs, variance, inner_products)


def pack(
    outputs: tuple[Tensor, Tensor, Tensor, Tensor], variance: bool, inner_products: bool
) -> BatchMoments:
    """Name the four outputs of a backend; what was not asked for becomes None."""
    mean, spread, sq_norms, products = outputs
    return BatchMoments(
        mean, spread if variance else None, sq_norms, products if inner_products else None
    )


def fake_moments(
    per_sample_grads: Tensor, variance: bool, inner_products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shapes and dtypes of the outputs, for tracing."""
    samples, features = per_sample_grads.shape
    dtype = ACCUMULATION_DTYPES[per_sample_grads.dtype]
    mean = per_sample_grads.new_empty(features, dtype=dtype)
    sq_norms = per_sample_grads.new_empty(samples, dtype=torch.float64)
    return (
        mean,
        torch.empty_like(mean) if variance else mean.new_empty(0),
        sq_norms,
        torch.empty_like(sq_norms) if inner_products else sq_norms.new_empty(0),
    )


def _run(
    per_sample_grads: Tensor, variance: bool, inner_products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_per_sample_grads(per_sample_grads, variance=variance)
    backend = backends.select(per_sample_grads.device, per_sample_grads.dtype)
    outputs: tuple[Tensor, Tensor, Tensor, Tensor] = backend.batch_moments(
        per_sample_grads, variance, inner_products
    )
    return outputs


_operator = register(
    "batch_moments(Tensor per_sample_grads, bool variance, bool inner_products)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    fake_moments,
)
