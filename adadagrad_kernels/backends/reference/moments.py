"""The definition of the moments of rows: of a batch, with a step along its mean, of chunks."""

from __future__ import annotations

from torch import Tensor

from adadagrad_kernels.backends.outputs import BatchMoments
from adadagrad_kernels.backends.reference.steps import adagrad
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.checks import ACCUMULATION_DTYPES

__all__ = [
    "accumulate_moments_",
    "batch_adagrad_step_",
    "batch_moments",
    "subtract_square_",
]


def batch_moments(per_sample_grads: Tensor, variance: bool, inner_products: bool) -> BatchMoments:
    """Mean, variance, squared norms and inner products with the mean, of the rows of G."""
    grads = per_sample_grads.to(ACCUMULATION_DTYPES[per_sample_grads.dtype])
    samples = grads.shape[0]
    mean = grads.sum(0) / samples
    return BatchMoments(
        mean,
        (grads - mean).square().sum(0) / (samples - 1) if variance else None,
        grads.double().square().sum(1),
        grads.double() @ mean.double() if inner_products else None,
    )


def batch_adagrad_step_(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    rule: AdagradRule,
    variance: bool,
    inner_products: bool,
) -> BatchMoments:
    """The moments of G, and an AdaGrad step of ``param`` along their mean."""
    moments = batch_moments(per_sample_grads, variance, inner_products)
    adagrad(param, moments.mean.view(param.shape), state_sum, rule)
    return moments


def accumulate_moments_(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    """A chunk of rows added to the sum and squared deviations of ``samples`` others."""
    rows = chunk.to(ACCUMULATION_DTYPES[chunk.dtype])
    count, added = len(rows), rows.sum(0)
    if squares is not None:
        mean = added / count
        spread = (rows - mean).square().sum(0)
        if samples:
            apart = mean - sum / samples
            spread += squares + apart.square() * (samples * count / (samples + count))
        squares.copy_(spread)
    sum.copy_(sum + added if samples else added)
    sq_norms.copy_(rows.double().square().sum(1))


def subtract_square_(squares: Tensor, grad: Tensor, scale: float) -> None:
    """``squares`` less ``scale`` times the square of ``grad``, and zero at least."""
    squares.addcmul_(grad, grad, value=-scale).clamp_(min=0)
