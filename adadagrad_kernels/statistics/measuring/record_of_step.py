"""The record of a step that is over: its micro-batches as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from adadagrad_kernels.ranks import own_agreement
from adadagrad_kernels.statistics.measuring.directional import (
    difference_derivatives,
    forward_derivatives,
)
from adadagrad_kernels.statistics.measuring.micro_batch import MicroBatch
from adadagrad_kernels.statistics.measuring.problems import Problems
from adadagrad_kernels.statistics.measuring.step import Step
from adadagrad_kernels.statistics.measuring.uses import Norms
from adadagrad_kernels.statistics.measuring.verify import NamedParameters, require_present
from adadagrad_kernels.statistics.randomness import with_same_draws
from adadagrad_kernels.statistics.ratio_estimate import covariance_weights
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import squared_norm


def finished(step: Step) -> tuple[list[MicroBatch], list[tuple[str, nn.Parameter]]]:
    """The micro-batches of a step that is over, those with samples, and the parameters by name.

    Raises:
        Exception: the first problem of the step.
    """
    if step.gate.failed:
        step.problems.require_none()
    step.forget_unused()
    step.require_grad_mode()
    if not step.micro_batches:
        raise ValueError(
            "no gradient has reached the layers since the last statistics(); run the forward "
            "and the backward pass inside the context, then ask"
        )
    parameters = step.named_parameters()
    step.finish(parameters)
    if step.problems.certain:
        step.problems.require_none()
    micro_batches = step.micro_batches
    try:
        require_present(parameters, set().union(*(m.reached for m in micro_batches)))
    except ValueError as error:
        step.problems.fail(error)
    return [m for m in micro_batches if m.samples != 0], parameters


def products_by_losses(
    step: Step, losses: Callable[[], Tensor], exact: bool, mean: Mapping[str, Tensor]
) -> Tensor:
    """The inner products with the mean gradient: derivatives of the samples' losses along it."""
    derive = forward_derivatives if exact else difference_derivatives
    # A difference of two passes with other draws would be that of the draws.
    repeated = with_same_draws(losses, next(step.model.parameters()).device)
    with step.gate.paused():
        return derive(step.model, repeated, mean)


def covariance_products_by_losses(
    step: Step, losses: Callable[[], Tensor], exact: bool, record: GradientStatistics
) -> Tensor:
    """<g_i, S g>, from S g, the gradient of the losses weighed by their own inner products."""
    assert record.inner_products is not None
    weights = covariance_weights(record.inner_products)
    parameters = in_training(step.named_parameters())
    repeated = with_same_draws(losses, record.inner_products.device)
    with step.gate.paused(), torch.enable_grad():
        values = repeated()
        weighed = (values * weights.to(values)).sum()
        found = torch.autograd.grad(weighed, list(parameters.values()), allow_unused=True)
    direction = {
        name: torch.zeros_like(p) if along is None else along.to_dense()
        for (name, p), along in zip(parameters.items(), found, strict=True)
    }
    return products_by_losses(step, losses, exact, direction)


def merge_micro_batches(
    micro_batches: Sequence[MicroBatch],
    named: NamedParameters,
    variance: bool,
    grad_scale: float,
    problems: Problems,
) -> GradientStatistics:
    """The record of the samples of all micro-batches, whose gradients have added up in ``.grad``.

    With b samples in all, the per-sample gradient g_i is b h_i, b times what sample i has added.
    The step's problems are read with the numbers, and the first is raised.
    """
    parameters = in_training(named)
    samples = sum(m.samples or 0 for m in micro_batches)
    factor = (samples / grad_scale) ** 2
    sq_norms = torch.cat([total_sq_norms(m.norms, m.samples or 0) for m in micro_batches]) * factor
    grads = {n: p.grad.detach() for n, p in parameters.items() if p.grad is not None}
    sums = [squared_norm(grads.values()), sq_norms.sum()]
    products = None
    if len(micro_batches) == 1 and micro_batches[0].dots_with_sum:
        products = torch.stack(micro_batches[0].dots_with_sum).sum(0) * samples / grad_scale**2
        products = products.double()
        sums.append(products.square().sum())
    (mean_sq_norm,), (sum_sq_norms,), *along = problems.require_none(sums)
    mean = mean_gradient(parameters, grad_scale)
    return GradientStatistics(
        batch_size=samples,
        mean_sq_norm=mean_sq_norm / grad_scale**2,
        sum_sq_norms=sum_sq_norms,
        sq_norms=sq_norms,
        inner_products=products,
        sum_sq_inner_products=along[0][0] if along else None,
        variance=_variance(micro_batches, parameters, factor) if variance else None,
        mean_gradient=mean,
        agreement=own_agreement(None),
    )


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


def ask_finite(micro_batches: Sequence[MicroBatch], problems: Problems) -> None:
    """Ask whether all norms are finite; the layer nearest to the loss is named where not."""
    for micro_batch in micro_batches:
        devices = dict.fromkeys(each.squared.device for each in micro_batch.norms)
        for device in devices:
            here = [each for each in micro_batch.norms if each.squared.device == device]
            finite = torch.stack([each.squared for each in here]).isfinite().all(1)
            errors = [ValueError(nonfinite(each.layer)) for each in here]
            problems.ask_each(~finite, errors.__getitem__)
