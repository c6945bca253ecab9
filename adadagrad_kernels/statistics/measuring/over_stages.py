"""The record of a pipeline, from the records of its stages, each of which has some parameters.

Every stage sees all samples of its pipeline. A squared norm or an inner product is a sum over
parameters, so those of a sample add up over the stages, and coordinates stay on their own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.statistics.measuring import pending
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.shared_uses import COARSE_TOLERANCE
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Use
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import row_dots

Row = Sequence[float]


def record_of_stages(
    rows: Sequence[Row], ranks: Ranks, build: Callable[[Sequence[Row], float], GradientStatistics]
) -> tuple[GradientStatistics, float]:
    """The record of all parameters, the same on every rank to the last bit.

    Args:
        rows: of every rank, stage by stage: by what its schedule has divided the gradients, 0
            where nothing is in training; its samples; further numbers.
        ranks: the ranks themselves.
        build: the record of one stage, from its rows without the first number, which is alike on
            all stages.

    Returns:
        The record, and by what all schedules have divided the gradients.

    Raises:
        ValueError: where stages have other samples or another divisor than others.
    """
    stages = [rows[at : at + ranks.size] for at in range(0, len(rows), ranks.size)]
    training = {place: stage for place, stage in enumerate(stages) if stage[0][0]}
    if not training:
        raise ValueError(
            "no stage of the pipeline has a parameter that requires grad, so there is nothing to "
            "measure; call requires_grad_() on the parameters to train"
        )
    divisors = {place: {row[0] for row in stage} for place, stage in training.items()}
    divided_by, *others = set().union(*divisors.values())
    if others:
        raise ValueError(
            f"the stages have divided their gradients by different numbers of micro-batches "
            f"({_by_stage(divisors)}). Way out: the same schedule on every rank, with the same "
            "n_microbatches and scale_grads"
        )
    samples = {place: [int(row[1]) for row in stage] for place, stage in training.items()}
    if len({tuple(each) for each in samples.values()}) > 1:
        raise ValueError(
            f"the stages of the pipeline saw different numbers of samples ({_by_stage(samples)}): "
            "torch sends every micro-batch in the shape of the first. Way out: a batch that the "
            "number of micro-batches divides"
        )
    records = [build([row[1:] for row in stage], divided_by) for stage in training.values()]
    record = replace(
        records[0],
        mean_sq_norm=math.fsum(record.mean_sq_norm for record in records),
        sum_sq_norms=math.fsum(record.sum_sq_norms for record in records),
    )
    return record, divided_by


def _by_stage(values: Mapping[int, Iterable[float]]) -> str:
    return "; ".join(
        f"stage {place}: {', '.join(f'{value:.0f}' for value in each)}"
        for place, each in values.items()
    )


def own_products(micro_batches: Sequence[MicroBatch], gradients: Mapping[int, Tensor]) -> Tensor:
    """<h_i, gradient> over this stage's parameters, ``[samples]`` in the order of the samples.

    Args:
        micro_batches: whose uses were kept.
        gradients: whole ones, by the identity of parameters.
    """
    found = []
    for micro_batch in micro_batches:
        total = torch.zeros(micro_batch.samples or 0, dtype=torch.float64, device="cpu")
        for use in micro_batch.kept:
            along = _along(use, gradients)
            total = along + total.to(along.device)
        found.append(total)
    return torch.cat([torch.zeros(0, dtype=torch.float64, device="cpu"), *found])


def require_mean(mean: float, size: float, record: GradientStatistics) -> None:
    """Refuse inner products whose mean is not N, as of layers whose inputs were overwritten.

    Args:
        mean: of the inner products over all samples.
        size: the mean of their absolute values.
        record: with N.

    Raises:
        ValueError: with both.
    """
    if abs(mean - record.mean_sq_norm) > COARSE_TOLERANCE * size:
        raise ValueError(
            f"the inner products of the samples have the mean {mean:g}, but the mean gradient the "
            f"squared norm {record.mean_sq_norm:g}: what layers have kept of their inputs was "
            "overwritten before statistics(). Way out: tensors of its own for each micro-batch; "
            "or inner_products=False"
        )


def _along(use: Use, gradients: Mapping[int, Tensor]) -> Tensor:
    """<h_i, gradient> of one use."""
    with torch.autocast(use.parts[0].value.device.type, enabled=False):
        return _along_parts(use, gradients)


def _along_parts(use: Use, gradients: Mapping[int, Tensor]) -> Tensor:
    if isinstance(use, LayerUse) and use.weight is not None and use.bias is not None:
        weight, bias = copy.copy(use), copy.copy(use)
        weight.bias, bias.weight = None, None
        return _along_parts(weight, gradients) + _along_parts(bias, gradients)
    parts = {part.key: part for part in use.parts}
    along = {}
    for key, part in parts.items():
        gradient = gradients[id(part.parameter)]
        flat = (gradient.to_dense() if gradient.is_sparse else gradient).flatten()
        along[key] = flat[part.start : part.start + part.value.numel()]
    if isinstance(use, LayerUse) and use.weight is not None:
        short = use.dots_with(along[use.weight.key].view(use.weight.value.shape))
        if short is not None:
            return short
    total = torch.zeros(use.samples, dtype=torch.float64, device=use.parts[0].value.device)
    for rows, contributions in pending.chunks([use], parts, use.samples):
        for key, chunk in contributions.items():
            total[rows] += row_dots(chunk, along[key])
    return total
