"""The record of all ranks' samples, where each rank holds a part of the gradient.

As in ``over_ranks`` sample i adds h_i to the gradient of its own rank, which its layers see whole,
and g_i = n h_i / D. What is reduced afterwards is the mean gradient in parts: its squared norm is
the sum over the ranks of those of their parts, and a part that several ranks hold counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.shards import ShardedParameters, copies, local
from adadagrad_kernels.statistics.measuring.directional import STEP
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.over_ranks import own_sq_norms
from adadagrad_kernels.statistics.measuring.step import contribution_variance, no_variance
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm


def own_numbers(
    micro_batches: Sequence[MicroBatch], mean: Mapping[str, Tensor], *, has_losses: bool
) -> list[float]:
    """What a rank tells the others: n_r, sum |h_i|^2, its part of N, whether it has losses."""
    samples = sum(m.samples or 0 for m in micro_batches)
    return [
        float(samples),
        own_sq_norms(micro_batches),
        part_of_sq_norm(mean.values()),
        float(has_losses),
    ]


def part_of_sq_norm(tensors: Any) -> float:
    """What this rank adds to the squared norm of sharded tensors."""
    return math.fsum(squared_norm([local(t)]).item() / copies(t) for t in tensors)


def record_of_shards(
    rows: Sequence[Sequence[float]], ranks: Ranks, grad_scale: float, mean: dict[str, Tensor]
) -> GradientStatistics:
    """The record of all samples, the same on every rank to the last bit.

    Args:
        rows: the numbers of every rank, as ``own_numbers`` gives them.
        ranks: the ranks themselves.
        grad_scale: factor by which the losses were multiplied.
        mean: the gradient, each rank's part.

    Raises:
        ValueError: if no rank has samples, or some have losses and others none.
    """
    samples = int(sum(row[0] for row in rows))
    if not samples:
        raise ValueError(
            "the batch is empty on every rank: no sample has reached the layers since the last "
            "statistics()"
        )
    if len({row[3] for row in rows}) > 1:
        raise ValueError(
            "some ranks pass losses to statistics() and others do not, but all must run the model "
            "together; pass it on every rank, also on one without samples"
        )
    factor = samples / (ranks.divisor * grad_scale)
    return GradientStatistics(
        batch_size=samples,
        mean_sq_norm=math.fsum(row[2] for row in rows),
        sum_sq_norms=factor * factor * math.fsum(row[1] for row in rows),
        mean_gradient=mean,
        agreement=ranks.agreement,
    )


def variance_of_shards(
    micro_batches: Sequence[MicroBatch],
    parameters: ShardedParameters,
    ranks: Ranks,
    grad_scale: float,
    record: GradientStatistics,
) -> dict[str, Tensor]:
    """The variance of every coordinate, sharded as its parameter is.

    As in ``over_ranks.variance_of_ranks``, parameter by parameter: the mean is gathered, and the
    squared deviations from it are added up and shared out again (a reduce-scatter).
    """
    factor = record.batch_size / (ranks.divisor * grad_scale)
    mean = record.require_mean_gradient()
    variance = {}
    for name, parameter in parameters.items():
        sharded: Any = mean[name]
        total = no_variance(parameter)
        center = sharded.full_tensor().to(total.dtype)
        for micro_batch in micro_batches:
            size = micro_batch.samples or 0
            if not size:
                continue
            spread = contribution_variance(micro_batch, parameter, total)
            total.add_(spread, alpha=factor * factor * (size - 1))
            own = micro_batch.own.get(id(parameter))
            far = -center if own is None else own.to(total.dtype) * (factor / size) - center
            total.addcmul_(far, far, value=size)
        variance[name] = _shared_out(total, sharded).div_(max(record.batch_size - 1, 1))
    return variance


def _shared_out(total: Tensor, like: Any) -> Tensor:
    """The sum over all ranks, in parts like those of a DTensor."""
    from torch.distributed.tensor import DTensor, Partial

    mesh = like.device_mesh
    added: Any = DTensor.from_local(total, mesh, [Partial()] * mesh.ndim, run_check=False)
    parts: Tensor = added.redistribute(placements=like.placements)
    return parts


def difference_derivatives(
    parameters: ShardedParameters,
    ranks: Ranks,
    losses: Callable[[], Tensor],
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Directional derivatives as those of ``directional``, on every rank at once.

    Args:
        parameters: which change, and come back bit by bit.
        ranks: that hold them.
        losses: runs the model and returns the losses of this rank's samples.
        direction: each rank's part.
    """
    kept = {name: local(parameter).clone() for name, parameter in parameters.items()}
    sizes = [part_of_sq_norm(parameters.values()), part_of_sq_norm(direction.values())]
    rows = ranks.gather(sizes, ranks.device)
    size, length = (math.sqrt(math.fsum(row[place] for row in rows)) for place in (0, 1))
    step = STEP * max(size, 1e-12) / length if length else 0.0
    found = []
    try:
        for sign in (1, -1):
            # Else a module goes on with what it had gathered before.
            parameters.reshard()
            with torch.no_grad():
                for name, parameter in parameters.items():
                    along = local(direction[name]).to(parameter.dtype)
                    local(parameter).copy_(kept[name]).add_(along, alpha=sign * step)
                found.append(losses().detach().double())
    finally:
        parameters.reshard()
        with torch.no_grad():
            for name, parameter in parameters.items():
                local(parameter).copy_(kept[name])
    derivatives: Tensor = (found[0] - found[1]) / (2 * step) if step else torch.zeros_like(found[0])
    return derivatives
