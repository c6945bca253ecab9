"""One record of all ranks' samples, from each rank's record of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.ranks import Ranks, require_no_stages
from adadagrad_kernels.statistics.noise_estimate import SampleSpread, moments_of
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm

#: Given the mean gradient by parameter name, <g_i, mean> of a rank's samples.
Products: TypeAlias = Callable[[dict[str, Tensor]], Tensor]


def pool(
    record: GradientStatistics, ranks: Ranks, *, inner_products: Products | None = None
) -> GradientStatistics:
    r"""The record of the samples of all ranks, as exact as one pass over all of them.

    Each rank passes the record of its own samples, whose mean gradient :math:`\bar g_r` is not
    reduced, such as that of ``PerSampleGradients(..., ranks="local")``. With
    :math:`n = \sum_r n_r`,

    .. math::
        \bar g = \sum_r \frac{n_r}{n} \bar g_r, \qquad
        (n-1) \mathrm{Var} = \sum_r (n_r - 1) \mathrm{Var}_r + n_r (\bar g_r - \bar g)^2

    (Chan, Golub, LeVeque 1979). Every rank must call it in the same steps, and gets the same
    numbers to the last bit. It takes two all_gathers of a few numbers, an all_reduce of the mean
    gradient, and another of the variance if it was measured. Single norms and inner products are
    None in the result; the latter refer to the mean of all samples. With ``inner_products`` the
    result has the sum of their squares, and, where every record has its norms, ``spread``, of which
    ``noise_estimate`` makes error bars; that is one more all_gather. It does not touch ``.grad``;
    ``mean_gradient`` holds the pooled gradient.

    Sources with ``ranks`` pool by themselves, as ``layer_statistics`` of a wrapper does.

    Args:
        record: of this rank's samples.
        ranks: who pools; its ``gradient_divisor`` does not matter here.
        inner_products: given the pooled gradient by parameter name, returns <g_i, mean> of this
            rank's samples, ``[batch_size]``, in the order of its record. Called once; given by all
            ranks or none.

    Raises:
        MissingStatisticError: on every rank, where a record has no mean gradient.
        ValueError: on every rank, for a record that is pooled already, for ranks with different
            parameters, for inner products on some ranks alone or of another number of samples.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from adadagrad_kernels import GradientStatistics
        >>> from adadagrad_kernels.distributed import Ranks, pool
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> mean = {"weight": torch.tensor([2.0, 2.0])}
        >>> own = GradientStatistics(2, mean_sq_norm=8.0, sum_sq_norms=18.0, mean_gradient=mean)
        >>> pool(own, Ranks()).batch_size
        2
        >>> dist.destroy_process_group()
    """
    error: Exception | None = None
    require_no_stages(ranks, "pool")
    if record.agreement is not None and record.agreement.is_whole:
        error = ValueError(
            "the record already has the samples of all ranks; pool() takes that of one rank, from "
            "a source with ranks='local': use this record as it is"
        )
    return pooled(record, ranks, error, inner_products)


def pooled(
    record: GradientStatistics | None,
    ranks: Ranks,
    error: Exception | None,
    inner_products: Products | None = None,
) -> GradientStatistics:
    """The same; an error on one rank, which then has no record, is raised on all."""
    mean: dict[str, Tensor] = {}
    numbers, device = [0.0] * 6, ranks.device
    try:
        if record is not None and error is None:
            mean = record.require_mean_gradient()
            device = next(iter(mean.values())).device
            numbers = [
                float(record.batch_size),
                record.sum_sq_norms,
                math.nan if record.loss is None else record.loss,
                float(record.variance is not None),
                float(sum(tensor.numel() for tensor in mean.values())),
                float(inner_products is not None),
            ]
    except MissingStatisticError as missing:
        error = missing
    rows = ranks.gather(numbers, device, error)
    assert record is not None
    if len({row[4] for row in rows}) > 1:
        raise ValueError(
            "the ranks have gradients of different parameters, of "
            f"{', '.join(f'{row[4]:.0f}' for row in rows)} elements; accepted are the same on all: "
            "freeze the same parameters on every rank"
        )
    if len({row[5] for row in rows}) > 1:
        raise ValueError(
            "some ranks pass inner_products and others do not, but all must measure them with the "
            "same mean; pass a function on every rank, or on none"
        )
    samples = int(sum(row[0] for row in rows))
    names = sorted(mean)
    share = record.batch_size / samples
    whole = dict(zip(names, ranks.add_up_all([mean[n] * share for n in names]), strict=True))
    variance = None
    if all(row[3] for row in rows) and record.variance is not None:
        variance = _variance(record, record.variance, whole, names, ranks, samples)
    signal = ranks.gather([squared_norm(whole.values()).item()], device)[0][0]
    loss = math.fsum(row[2] * row[0] for row in rows) / samples
    together = replace(
        record,
        batch_size=samples,
        mean_sq_norm=signal,
        sum_sq_norms=math.fsum(row[1] for row in rows),
        sq_norms=None,
        inner_products=None,
        sum_sq_inner_products=None,
        variance=variance,
        mean_gradient={name: whole[name] for name in mean},
        loss=None if math.isnan(loss) and record.loss is None else loss,
        halves_cosine=None,
        by_parameter=None,
        by_group=None,
        covariance_products=None,
        spectral=None,
        spread=None,
        agreement=ranks.agreement,
    )
    if inner_products is None:
        return together
    return _with_products(together, record, ranks, device, inner_products)


def _with_products(
    together: GradientStatistics,
    own: GradientStatistics,
    ranks: Ranks,
    device: torch.device,
    inner_products: Products,
) -> GradientStatistics:
    """The record of all ranks with the inner products of their samples with its mean."""
    numbers, error = [0.0] * 8, None
    try:
        products = own.with_inner_products(
            inner_products(together.require_mean_gradient()).detach()
        ).inner_products
        assert products is not None
        spread = [math.nan] * 5
        if own.sq_norms is not None:
            spread = moments_of(own.sq_norms, products).tolist()
        has_norms = float(own.sq_norms is not None)
        numbers = [products.square().sum().item(), has_norms, float(own.batch_size), *spread]
    except Exception as problem:  # the others wait: it goes to them with the numbers
        error = problem
    rows = ranks.gather(numbers, device, error)
    spreads = (row[2:] for row in rows)
    return replace(
        together,
        sum_sq_inner_products=math.fsum(row[0] for row in rows),
        spread=SampleSpread.of_ranks(spreads) if all(row[1] for row in rows) else None,
    )


def _variance(
    record: GradientStatistics,
    own: dict[str, Tensor],
    whole: dict[str, Tensor],
    names: Sequence[str],
    ranks: Ranks,
    samples: int,
) -> dict[str, Tensor]:
    mean, size = record.require_mean_gradient(), record.batch_size
    deviations = []
    for name in names:
        deviation = (mean[name] - whole[name]).to(own[name].dtype)
        deviations.append(own[name] * (size - 1) + deviation.square_() * size)
    added = ranks.add_up_all(deviations)
    divisor = max(samples - 1, 1)
    return {name: total / divisor for name, total in zip(names, added, strict=True)}
