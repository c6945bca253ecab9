"""The record of all ranks' samples, where each rank holds a part of the gradient.

As in ``over_ranks`` sample i adds h_i to the gradient of its own rank, which its layers see whole,
and g_i = n h_i / D. What is reduced afterwards is the mean gradient in parts: its squared norm is
the sum over the ranks of those of their parts, and a part that several ranks hold counts once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.shards import ShardedParameters, added_up, is_sharded, local, whole
from adadagrad_kernels.statistics.measuring.directional import STEP
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.over_ranks import (
    differ,
    mark_of,
    own_sq_norms,
    require_same_parameters,
    sample_sq_norms,
)
from adadagrad_kernels.statistics.measuring.problems import Problems
from adadagrad_kernels.statistics.measuring.record_of_step import contribution_variance, no_variance
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import on_host, squared_norm

#: Those of ``own_numbers``.
NUMBERS = 7
#: Where losses are in float64, whose rounding allows a smaller step than ``STEP``.
_WIDE_STEP = 1e-5


def own_numbers(
    micro_batches: Sequence[MicroBatch],
    mean: Mapping[str, Tensor],
    parameters: ShardedParameters,
    problems: Problems,
    *,
    has_losses: bool,
) -> list[float]:
    """What a rank tells the others.

    Its parts of n, of sum |h_i|^2 and of N; whether it has losses; the squared norm of what all
    ranks with the same samples hold, in which they must agree; which part of the parameters it
    holds, and what tells that part from others. The step's problems are read with the numbers, and
    the first is raised.
    """
    samples = sum(m.samples or 0 for m in micro_batches)
    alike = [g for g in mean.values() if not is_sharded(g)]
    parts = [squared_norm([local(t)]) for t in mean.values()]
    marks = [squared_norm(alike), mark_of(parameters.values())]
    told = problems.require_none([own_sq_norms(micro_batches), *marks, *parts])
    squares, (same,), (mark,), *norms = told
    return [
        samples / parameters.same_samples,
        sum(squares),
        _part_of_sq_norm(norms, mean.values(), parameters),
        float(has_losses),
        same,
        float(parameters.place),
        mark,
    ]


def _part_of_sq_norm(
    norms: Iterable[Sequence[float]], tensors: Iterable[Tensor], parameters: ShardedParameters
) -> float:
    """What this rank adds to the squared norm of sharded tensors, from the norms of its parts."""
    copies = map(parameters.copies, tensors)
    return math.fsum(norm / count for (norm,), count in zip(norms, copies, strict=True))


def added_gradients(parameters: ShardedParameters, mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients in parts like the parameters', where autograd has left them otherwise.

    Such as in sums that are still to be added up; all ranks are here.
    """
    found = {}
    for name, gradient in mean.items():
        placed: Any = parameters[name]
        found[name] = added_up(gradient, getattr(placed, "placements", ()))
    return found


def record_of_shards(
    rows: Sequence[Sequence[float]], ranks: Ranks, scale: float, mean: dict[str, Tensor]
) -> GradientStatistics:
    """The record of all samples, the same on every rank to the last bit.

    Args:
        rows: the numbers of every rank, as ``own_numbers`` gives them.
        ranks: the ranks themselves.
        scale: D, times the factor by which the losses were multiplied.
        mean: the gradient, each rank's part.

    Raises:
        ValueError: if no rank has samples, some have losses and others none, parameters outside of
            a plan have other gradients on other ranks, or replicas other parameters.
    """
    samples = round(math.fsum(row[0] for row in rows))
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
    alike = [row[4] for row in rows]
    if differ(alike):
        raise ValueError(
            "the gradients of parameters outside of the tensor-parallel plan differ between ranks "
            f"with the same samples (their squared norms are {alike}): their layers see other "
            "positions or other features on each. Way out: a place in the plan, such as "
            "SequenceParallel(), for each of them"
        )
    replicas: dict[float, list[float]] = {}
    for row in rows:
        replicas.setdefault(row[5], []).append(row[6])
    for marks in replicas.values():
        require_same_parameters(marks, mean.values())
    factor = samples / scale
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
    scale: float,
    record: GradientStatistics,
) -> dict[str, Tensor]:
    """The variance of every coordinate, sharded as its parameter is.

    As in ``over_ranks.variance_of_ranks``, parameter by parameter: the mean is gathered, and the
    squared deviations from it are added up and shared out again.
    """
    factor = record.batch_size / scale
    mean = record.require_mean_gradient()
    variance = {}
    for name, parameter in parameters.items():
        center = _gathered(parameters, parameter, mean[name])
        total = no_variance(center)
        center = center.to(total.dtype)
        for micro_batch in micro_batches:
            size = micro_batch.samples or 0
            if not size:
                continue
            spread = contribution_variance(micro_batch, parameter, total)
            total.add_(spread, alpha=factor * factor * (size - 1))
            own = micro_batch.own.get(id(parameter))
            far = -center if own is None else own.to(total.dtype) * (factor / size) - center
            total.addcmul_(far, far, value=size)
        total.div_(max(record.batch_size - 1, 1))
        variance[name] = _shared_out(parameters, parameter, total)
    return variance


def gathered_gradients(
    parameters: ShardedParameters, mean: Mapping[str, Tensor]
) -> dict[int, Tensor]:
    """All of each gradient, by the identity of parameters; all ranks are here."""
    return {id(p): _gathered(parameters, p, mean[name]) for name, p in parameters.items()}


def _gathered(parameters: ShardedParameters, parameter: Any, mean: Any) -> Tensor:
    """What this rank's layers see of a gradient: all that ``fully_shard`` has shared out."""
    from torch.distributed.tensor import Replicate

    if not is_sharded(mean):
        whole_here: Tensor = mean
        return whole_here
    _, placements = parameters.over_data(parameter)
    if len(placements) == mean.device_mesh.ndim:
        return whole(mean)
    kept = parameter.placements[len(placements) :]
    return local(added_up(mean, [*(Replicate() for _ in placements), *kept]))


def _shared_out(parameters: ShardedParameters, parameter: Any, total: Tensor) -> Tensor:
    """The sum over all ranks with samples of their own, in parts like those of a parameter."""
    from torch.distributed.tensor import DTensor

    if not is_sharded(parameter):
        return total
    mesh = parameter.device_mesh
    groups, placements = parameters.over_data(parameter)
    for place, (group, placement) in enumerate(zip(groups, placements, strict=True)):
        dist.all_reduce(total, group=group)
        if not placement.is_replicate():
            pieces = total.chunk(mesh.size(place), placement.dim)
            at = mesh.get_local_rank(place)
            total = pieces[at] if at < len(pieces) else total.narrow(placement.dim, 0, 0)
    shape = {"shape": parameter.shape, "stride": parameter.stride()}
    parts: Tensor = DTensor.from_local(
        total.contiguous(), mesh, parameter.placements, run_check=False, **shape
    )
    return parts


def require_one(micro_batches: Sequence[MicroBatch]) -> None:
    """Require a single micro-batch, whose layers knew its mean.

    Raises:
        ValueError: for several.
    """
    if len(micro_batches) != 1:
        raise ValueError(
            f"the step has {len(micro_batches)} micro-batches, whose inner products refer to their "
            "common mean; pass statistics(losses=..., exact=False), a function that returns the "
            "losses of all their samples, or use a single micro-batch"
        )


def norms_and_products_of_layers(micro_batch: MicroBatch, ranks: Ranks) -> Tensor:
    """|h_i|^2 and <h_i, sum_j h_j> over the layers' parts on all ranks, ``[2, samples]``.

    The ranks have the same samples.
    """
    products = torch.stack(micro_batch.dots_with_sum).sum(0).double()
    return ranks.add_up(torch.stack([sample_sq_norms([micro_batch]).to(products), products]))


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
    sizes = [
        _part_of_sq_norm(on_host([squared_norm([local(t)]) for t in each]), each, parameters)
        for each in (list(parameters.values()), list(direction.values()))
    ]
    rows = ranks.gather(sizes, ranks.device)
    size, length = (math.sqrt(math.fsum(row[place] for row in rows)) for place in (0, 1))
    wide = all(parameter.dtype == torch.float64 for parameter in parameters.values())
    step = (_WIDE_STEP if wide else STEP) * max(size, 1e-12) / length if length else 0.0
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
