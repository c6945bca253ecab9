"""Statistics of a batch from its per-sample gradients, in one pass over them."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends.outputs import BatchMoments
from adadagrad_kernels.checks import check_per_sample_grads
from adadagrad_kernels.ops._library import register


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
        return from_schema(outputs, variance, inner_products)
    return _run(per_sample_grads, variance, inner_products)


def from_schema(
    outputs: tuple[Tensor, Tensor, Tensor, Tensor], variance: bool, inner_products: bool
) -> BatchMoments:
    """The record of what the registered op gives; what was not asked for becomes None."""
    mean, spread, sq_norms, products = outputs
    return BatchMoments(
        mean, spread if variance else None, sq_norms, products if inner_products else None
    )


def _run(per_sample_grads: Tensor, variance: bool, inner_products: bool) -> BatchMoments:
    check_per_sample_grads(per_sample_grads, variance=variance)
    backend = backends.select(per_sample_grads.device, per_sample_grads.dtype, "batch_moments")
    moments: BatchMoments = backend.batch_moments(per_sample_grads, variance, inner_products)
    return moments


_operator = register(
    "batch_moments(Tensor per_sample_grads, bool variance, bool inner_products)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    BatchMoments.empty,
)
