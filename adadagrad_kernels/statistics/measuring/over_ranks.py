"""The record of all ranks' samples, from what each rank measured and the gradient they share.

Sample i adds h_i to the gradient of its own rank, and .grad becomes the sum over all ranks, divided
by D. So g_i = n h_i / D, where n counts the samples of all ranks, however they are shared out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.problems import Problems
from adadagrad_kernels.statistics.measuring.record_of_step import (
    contribution_variance,
    no_variance,
    total_sq_norms,
)
from adadagrad_kernels.statistics.measuring.sampled_elements import sampled_elements
from adadagrad_kernels.statistics.noise_estimate import SampleSpread, moments_of
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm

#: Allowed relative difference between ranks' squared norms of what is one and the same (different
#: processors round differently).
SAME = 1e-6
#: Of tensors with elements that can be told.
_LAYOUTS = (torch.strided, torch.sparse_coo)
#: Numbers of ``moments_of``.
SPREAD = 5
#: Those of ``own_numbers``.
NUMBERS = 5 + SPREAD


def own_numbers(
    micro_batches: Sequence[MicroBatch],
    mean: Mapping[str, Tensor],
    products: Tensor | None,
    problems: Problems,
    parameters: Iterable[Tensor],
) -> list[float]:
    """What a rank tells the others: n_r, sum |h_i|^2, N, sum p_i^2 (-1 where not measured).

    And how |h_i|^2 and p_i vary, zeros where they were not measured; last, what tells the
    parameters from others. The step's problems are read with the numbers, and the first is raised.
    """
    numbers = [own_sq_norms(micro_batches), squared_norm(mean.values()), mark_of(parameters)]
    if products is not None:
        numbers.append(products.double().square().sum())
        numbers.append(own_spread(micro_batches, products))
    squares, (signal,), (mark,), *along = problems.require_none(numbers)
    samples = sum(m.samples or 0 for m in micro_batches)
    (squared_products,), spread = along or ([-1.0], [0.0] * SPREAD)
    return [float(samples), sum(squares), signal, squared_products, *spread, mark]


def sample_sq_norms(micro_batches: Sequence[MicroBatch]) -> Tensor:
    """|h_i|^2 of a rank's samples, in the order of its micro-batches."""
    found = [total_sq_norms(m.norms, m.samples or 0) for m in micro_batches]
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64, device="cpu")


def own_spread(micro_batches: Sequence[MicroBatch], products: Tensor) -> Tensor:
    """How |h_i|^2 and p_i vary over a rank's samples; zeros without any."""
    if not len(products):
        return torch.zeros(SPREAD, dtype=torch.float64, device="cpu")
    return moments_of(sample_sq_norms(micro_batches), products)


def own_sq_norms(micro_batches: Sequence[MicroBatch]) -> Tensor:
    """Sum |h_i|^2 over the samples of each of a rank's micro-batches that has any."""
    squares = [total_sq_norms(m.norms, m.samples or 0).sum() for m in micro_batches if m.samples]
    return torch.stack(squares) if squares else torch.zeros(0, dtype=torch.float64, device="cpu")


def require_each(products: Tensor, micro_batches: Sequence[MicroBatch]) -> None:
    """Require one inner product for each of this rank's samples.

    Raises:
        ValueError: with both numbers.
    """
    samples = sum(m.samples or 0 for m in micro_batches)
    if products.shape != (samples,):
        raise ValueError(
            f"losses() gave losses of shape {tuple(products.shape)}; accepted are those of this "
            f"rank's samples, ({samples},), in their order"
        )


def require_one_step(steps: Sequence[float]) -> None:
    """Refuse numbers of different steps.

    Raises:
        ValueError: with the step of every rank.
    """
    if len(set(steps)) > 1:
        raise ValueError(
            f"the ranks are in different steps ({', '.join(f'{step:.0f}' for step in steps)}): "
            "each must call statistics() once in every step, measured or not"
        )


def require_reduced(sq_norms: Sequence[float]) -> float:
    """Refuse gradients that differ between ranks; returns the squared norm that all use.

    Raises:
        ValueError: with the squared norms.
    """
    if differ(sq_norms):
        raise ValueError(
            f"the gradients of the ranks differ (their squared norms are {list(sq_norms)}): "
            "nothing has reduced them. Ways out: call the wrapper in the forward pass, not its "
            ".module; leave no_sync() for the last micro-batch; the same parameters in training on "
            "every rank"
        )
    return sq_norms[0]


def mark_of(parameters: Iterable[Tensor]) -> Tensor:
    """What tells these parameters from others: the sum of squares of some elements of each."""
    known = [p for p in parameters if not p.is_meta and p.layout in _LAYOUTS]
    return squared_norm(few.abs() for few in sampled_elements(known).values())


def require_same_parameters(marks: Sequence[float], alike: Iterable[Tensor]) -> None:
    """Refuse ranks that hold other parameters than each other.

    Args:
        marks: of every rank, as ``mark_of`` gives them.
        alike: tensors of the parameters' types, which say how differently ranks may round.

    Raises:
        ValueError: with the ways out.
    """
    if differ(marks) and differ(marks, max(map(_rounding, alike), default=0.0)):
        raise ValueError(
            f"the parameters of the ranks differ (the squared norms of some of their elements are "
            f"{list(marks)}), so that each trains another model: DistributedDataParallel makes "
            "them equal once, when it wraps, and fully_shard never. Ways out: load checkpoints on "
            "every rank, or before wrapping; seed every rank alike before it builds the model; the "
            "same optimizer, state and learning rates on all of them"
        )


def differ(sq_norms: Sequence[float], by: float = SAME) -> bool:
    """Whether they are of different things, by more than this share of the largest."""
    return max(sq_norms) - min(sq_norms) > by * max(sq_norms)


def _rounding(tensor: Tensor) -> float:
    """Of one of half precision, whose elements an optimizer rounds in every step; else 0."""
    floats = tensor.dtype.is_floating_point and tensor.dtype.itemsize < 4
    return torch.finfo(tensor.dtype).eps / 8 if floats else 0.0


def record_of_ranks(
    rows: Sequence[Sequence[float]], ranks: Ranks, scale: float, mean: dict[str, Tensor]
) -> GradientStatistics:
    """The record of all samples, the same on every rank to the last bit.

    Args:
        rows: the numbers of every rank, as ``own_numbers`` gives them.
        ranks: the ranks themselves.
        scale: D, times the factor by which the losses were multiplied.
        mean: the gradient, the same on all ranks.

    Raises:
        ValueError: if no rank has samples, or gradients or parameters differ between ranks.
    """
    samples = int(sum(row[0] for row in rows))
    if not samples:
        raise ValueError(
            "the batch is empty on every rank: no sample has reached the layers since the last "
            "statistics()"
        )
    signal = require_reduced([row[2] for row in rows])
    require_same_parameters([row[-1] for row in rows], mean.values())
    factor = samples / scale
    along = [row[3] for row in rows if row[0]]
    measured = min(along) != -1.0
    spread = SampleSpread.of_ranks(((row[0], *row[4:-1]) for row in rows), factor * factor)
    return GradientStatistics(
        batch_size=samples,
        mean_sq_norm=signal,
        sum_sq_norms=factor * factor * math.fsum(row[1] for row in rows),
        sum_sq_inner_products=math.fsum(along) if measured else None,
        spread=spread if measured else None,
        mean_gradient=mean,
        agreement=ranks.agreement,
    )


def variance_of_ranks(
    micro_batches: Sequence[MicroBatch],
    parameters: Mapping[str, nn.Parameter],
    ranks: Ranks,
    scale: float,
    record: GradientStatistics,
) -> dict[str, Tensor]:
    """The variance of every coordinate, from one all_reduce of one number per coordinate.

    Given the mean of all samples, each micro-batch's squared deviations from it are
    (m - 1) Var_m + m (mean_m - mean)^2; their sum over micro-batches and ranks is the total.
    """
    mean = record.require_mean_gradient()
    factor = record.batch_size / scale
    deviations = {}
    for name, parameter in parameters.items():
        total = no_variance(parameter)
        for micro_batch in micro_batches:
            size = micro_batch.samples or 0
            if not size:
                continue
            own_variance = contribution_variance(micro_batch, parameter, total)
            total.add_(own_variance, alpha=factor * factor * (size - 1))
            own = micro_batch.own.get(id(parameter))
            center = torch.zeros_like(total) if own is None else _dense(own, total.dtype)
            center = center * (factor / size) - _dense(mean[name], total.dtype)
            total.addcmul_(center, center, value=size)
        deviations[name] = total
    added = ranks.add_up_all(list(deviations.values()))
    divisor = max(record.batch_size - 1, 1)
    return {name: total.div_(divisor) for name, total in zip(deviations, added, strict=True)}


def _dense(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    return (gradient.to_dense() if gradient.is_sparse else gradient).to(dtype)
