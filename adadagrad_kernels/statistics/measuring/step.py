"""The micro-batches of a step as one record of all its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from adadagrad_kernels.ranks import own_agreement
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.uses import Norms
from adadagrad_kernels.statistics.measuring.verify import NamedParameters
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm


def merge_micro_batches(
    micro_batches: Sequence[MicroBatch],
    named: NamedParameters,
    variance: bool,
    grad_scale: float,
) -> GradientStatistics:
    """The record of the samples of all micro-batches, whose gradients have added up in ``.grad``.

    With b samples in all, the per-sample gradient g_i is b h_i, b times what sample i has added.
    """
    parameters = in_training(named)
    samples = sum(m.samples or 0 for m in micro_batches)
    factor = (samples / grad_scale) ** 2
    sq_norms = torch.cat([total_sq_norms(m.norms, m.samples or 0) for m in micro_batches]) * factor
    grads = {n: p.grad.detach() for n, p in parameters.items() if p.grad is not None}
    sums = [squared_norm(grads.values()), sq_norms.sum()]
    mean_sq_norm, sum_sq_norms = torch.stack([value.to(sums[1].device) for value in sums]).tolist()
    mean = mean_gradient(parameters, grad_scale)
    record = GradientStatistics(
        batch_size=samples,
        mean_sq_norm=mean_sq_norm / grad_scale**2,
        sum_sq_norms=sum_sq_norms,
        sq_norms=sq_norms,
        variance=_variance(micro_batches, parameters, factor) if variance else None,
        mean_gradient=mean,
        agreement=own_agreement(None),
    )
    if len(micro_batches) > 1 or not micro_batches[0].dots_with_sum:
        return record
    inner_products = torch.stack(micro_batches[0].dots_with_sum).sum(0) * samples / grad_scale**2
    return record.with_inner_products(inner_products)


def in_training(named: NamedParameters) -> dict[str, nn.Parameter]:
    """The parameters that require grad, by name."""
    return {name: parameter for name, parameter in named if parameter.requires_grad}


def mean_gradient(parameters: Mapping[str, nn.Parameter], grad_scale: float) -> dict[str, Tensor]:
    """``.grad`` by name, itself where nothing has scaled it."""
    mean = {
        n: torch.zeros_like(p, requires_grad=False) if p.grad is None else p.grad.detach()
        for n, p in parameters.items()
    }
    return mean if grad_scale == 1.0 else {n: grad / grad_scale for n, grad in mean.items()}


def total_sq_norms(by_layer: Sequence[Norms], samples: int) -> Tensor:
    """The norms of samples over all layers, ``[samples]``."""
    if not by_layer:
        return torch.zeros(samples, dtype=torch.float64, device="cpu")
    return torch.stack([each.squared for each in by_layer]).sum(0)


def _variance(
    micro_batches: Sequence[MicroBatch], parameters: dict[str, nn.Parameter], factor: float
) -> dict[str, Tensor]:
    """Deviations from the mean of all samples, pooled by Chan's formula.

    docs/reference/numerics.md has it.
    """
    variance = {}
    for name, parameter in parameters.items():
        count = 0
        squares, before, mean = None, None, None
        for micro_batch in micro_batches:
            size = micro_batch.samples or 0
            own = contribution_variance(micro_batch, parameter, parameter)
            own = own.mul_(max(size - 1, 0)) if len(micro_batches) > 1 else own
            if len(micro_batches) > 1:
                after = _gradient(micro_batch, parameter).to(own.dtype)
                center = (after if before is None else after - before) / size
                if mean is not None and squares is not None:
                    delta = center - mean
                    own = own.add_(squares).addcmul_(
                        delta, delta, value=count * size / (count + size)
                    )
                    center = mean + delta * (size / (count + size))
                before, mean = after, center
            squares, count = own, count + size
        assert squares is not None
        scale = factor / max(count - 1, 1) if len(micro_batches) > 1 else factor
        variance[name] = squares.mul_(scale)
    return variance


def _gradient(micro_batch: MicroBatch, parameter: nn.Parameter) -> Tensor:
    """``.grad`` after a micro-batch."""
    if micro_batch.cumulative is not None:
        found = micro_batch.cumulative.get(id(parameter))
    else:
        found = parameter.grad
    if found is None:
        return torch.zeros_like(parameter).detach()
    return found.to_dense() if found.is_sparse else found


def contribution_variance(micro_batch: MicroBatch, parameter: nn.Parameter, like: Tensor) -> Tensor:
    """The variance of the contributions to a parameter, put together from its parts.

    Args:
        micro_batch: whose samples contributed.
        parameter: of the model.
        like: of its shape and on its device, no part of it.
    """
    found = {k: v for k, v in micro_batch.variances.items() if k[0] == id(parameter)}
    whole = found.get((id(parameter), 0))
    if whole is not None and whole.shape == like.shape:
        return whole
    variance = no_variance(like)
    for (_, start), values in found.items():
        variance.view(-1)[start : start + values.numel()] = values.flatten()
    return variance


def nonfinite(what: str) -> str:
    """The message for NaN and infinity."""
    return (
        f"{what} has per-sample gradients that are not finite. Ways out: lower the learning rate; "
        "look at the batch; with a GradScaler, skip the step; on_nonfinite='record' gives the "
        "record all the same"
    )


def no_variance(parameter: Tensor) -> Tensor:
    """Zeros in the type of variances, for a whole parameter."""
    kind = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    return torch.zeros(parameter.shape, dtype=kind, device=parameter.device)


def first_nonfinite(micro_batches: Sequence[MicroBatch]) -> str | None:
    """The layer nearest to the loss whose norms are not finite, or None."""
    for micro_batch in micro_batches:
        for each in micro_batch.norms:
            if not bool(each.squared.isfinite().all()):
                return each.layer
    return None
