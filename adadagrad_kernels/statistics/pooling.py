"""Two records of the same parameters as one of all samples (Chan, Golub, LeVeque 1979)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adadagrad_kernels.statistics.sums import cosine_of_parts, squared_norm

if TYPE_CHECKING:
    from adadagrad_kernels.statistics.record import GradientStatistics


def pooled(first: GradientStatistics, second: GradientStatistics) -> GradientStatistics:
    """What ``GradientStatistics.merge`` returns and raises."""
    ours, theirs = first.require_mean_gradient(), second.require_mean_gradient()
    if ours.keys() != theirs.keys():
        raise ValueError(
            "only records of the same parameters merge; one of the two lacks "
            f"{sorted(ours.keys() ^ theirs.keys())}"
        )
    samples = first.batch_size + second.batch_size
    weight = second.batch_size / samples
    mean = {name: torch.lerp(ours[name], theirs[name], weight) for name in ours}
    mean_sq_norm = squared_norm(mean.values()).item()
    sq_norms = None
    if first.sq_norms is not None and second.sq_norms is not None:
        sq_norms = torch.cat([first.sq_norms, second.sq_norms])
    loss = None
    if first.loss is not None and second.loss is not None:
        loss = (first.loss * first.batch_size + second.loss * second.batch_size) / samples
    cosine = None
    if first.batch_size == second.batch_size:
        cosine = cosine_of_parts(4 * mean_sq_norm, first.mean_sq_norm, second.mean_sq_norm)
    return replace(
        first,
        batch_size=samples,
        mean_sq_norm=mean_sq_norm,
        sum_sq_norms=first.sum_sq_norms + second.sum_sq_norms,
        sq_norms=sq_norms,
        inner_products=None,
        sum_sq_inner_products=None,
        variance=_pooled_variance(first, second),
        mean_gradient=mean,
        loss=loss,
        halves_cosine=cosine,
        by_parameter=None,
    )


def _pooled_variance(
    first: GradientStatistics, second: GradientStatistics
) -> dict[str, Tensor] | None:
    if first.variance is None or second.variance is None:
        return None
    ours, theirs = first.require_mean_gradient(), second.require_mean_gradient()
    samples = first.batch_size + second.batch_size
    between = first.batch_size * second.batch_size / samples
    return {
        name: (
            (theirs[name] - ours[name]).square_().mul_(between)
            + first.variance[name] * (first.batch_size - 1)
            + second.variance[name] * (second.batch_size - 1)
        ).div_(samples - 1)
        for name in ours
    }
