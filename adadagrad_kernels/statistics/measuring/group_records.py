"""The record of every parameter group, from the norms that the layers have measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import on_host, squared_norm

#: Groups of parameters by name.
Groups = Mapping[str, Sequence[Tensor]]


def require_groups(model: nn.Module, groups: Mapping[str, Iterable[Tensor]]) -> Groups:
    """Groups that hold every parameter in training once.

    Raises:
        ValueError: for no groups, parameters of another model, and those in no group or in two.
    """
    found = {str(name): list(members) for name, members in groups.items()}
    if not found:
        raise ValueError("groups has no group; accepted are parameters of the model by name")
    names = {id(p): name for name, p in model.named_parameters()}
    owner: dict[int, str] = {}
    for group, members in found.items():
        for parameter in members:
            key = id(parameter)
            if key not in names:
                raise ValueError(
                    f"groups[{group!r}] has something that is no parameter of the model "
                    f"({type(parameter).__name__}); accepted are the model's own parameters, such "
                    "as those of an optimizer's param_groups"
                )
            if key in owner:
                raise ValueError(
                    f"'{names[key]}' is in the groups {owner[key]!r} and {group!r}; accepted is "
                    "every parameter once"
                )
            owner[key] = group
    left = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in owner]
    if left:
        raise ValueError(
            f"the parameters {left} are in training and in no group; add them to one, or freeze "
            "them with requires_grad_(False)"
        )
    return found


def records_of_groups(
    micro_batches: Sequence[MicroBatch], groups: Groups, samples: int, grad_scale: float
) -> dict[str, GradientStatistics]:
    """Squared norms of the samples over each group, and that of its mean gradient.

    Args:
        micro_batches: of the step, with samples.
        groups: that hold every parameter in training.
        samples: b, of all micro-batches.
        grad_scale: factor by which the losses were multiplied.

    Raises:
        ValueError: for a layer whose parameters are measured together and are in several groups.
    """
    owner = {id(p): name for name, members in groups.items() for p in members}
    factor = (samples / grad_scale) ** 2
    rows = [_own_norms(micro_batch, owner) for micro_batch in micro_batches]
    norms = {name: torch.cat([own[name] for own in rows]) * factor for name in groups}
    sums = []
    for name, members in groups.items():
        grads = [p.grad.detach() for p in members if p.requires_grad and p.grad is not None]
        sums += [norms[name].sum(), squared_norm(grads)]
    told = iter(on_host(sums))
    found = {}
    for name in groups:
        (total,), (signal,) = next(told), next(told)
        found[name] = GradientStatistics(
            samples, signal / grad_scale**2, total, sq_norms=norms[name]
        )
    return found


def own_numbers(
    micro_batches: Sequence[MicroBatch], groups: Groups, mean: Mapping[int, Tensor]
) -> list[float]:
    """What a rank tells the others of its groups: of each sum |h_i|^2, and N.

    Args:
        micro_batches: of the rank's step.
        groups: that hold every parameter in training.
        mean: the gradient that all ranks have, by the identity of parameters.

    Raises:
        ValueError: for a layer whose parameters are measured together and are in several groups.
    """
    owner = {id(p): name for name, members in groups.items() for p in members}
    rows = [_own_norms(micro_batch, owner) for micro_batch in micro_batches]
    sums = []
    for name, members in groups.items():
        sums.append(torch.stack([own[name].sum() for own in rows]) if rows else _nothing(0))
        sums.append(squared_norm([mean[id(p)] for p in members if id(p) in mean]))
    return [math.fsum(values) for values in on_host(sums)]


def records_of_ranks(
    rows: Sequence[Sequence[float]], groups: Groups, scale: float, whole: GradientStatistics
) -> dict[str, GradientStatistics]:
    """The norms of each group over the samples of all ranks, the same on every rank.

    Args:
        rows: the numbers of every rank, as ``own_numbers`` gives them.
        groups: of the parameters.
        scale: D, times the factor by which the losses were multiplied.
        whole: the record of all parameters.
    """
    factor = (whole.batch_size / scale) ** 2
    return {
        name: GradientStatistics(
            whole.batch_size,
            rows[0][2 * place + 1],
            factor * math.fsum(row[2 * place] for row in rows),
            agreement=whole.agreement,
        )
        for place, name in enumerate(groups)
    }


def _nothing(samples: int) -> Tensor:
    return torch.zeros(samples, dtype=torch.float64, device="cpu")


def _own_norms(micro_batch: MicroBatch, owner: Mapping[int, str]) -> dict[str, Tensor]:
    """|h_i|^2 of a micro-batch's samples over the parameters of each group."""
    totals = dict.fromkeys(owner.values(), _nothing(micro_batch.samples or 0))
    for each in micro_batch.norms:
        names = {owner.get(id(part.parameter)) for part in each.parts}
        if len(names) > 1:
            raise ValueError(
                f"{each.layer} measures its parameters together, and they are in the groups "
                f"{sorted(map(str, names))}; put all parameters of a layer, its bias too, and "
                "layers with tied weights into one group"
            )
        for name in names:
            if name is not None:
                total = totals[name].to(each.squared.device)
                totals[name] = total + each.squared.double()
    return totals
