"""One rank of a sharded model goes wrong, which all others need; run by ``support.ranks``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from failing_cases import _is_last
from sharded_models import own_losses, replicated, sharded, weighted
from small_models import network, share
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import adadagrad_kernels as adk


def _backward(model: Any, inputs: Tensor, targets: Tensor) -> None:
    weighted(model, inputs, targets, by=float(dist.get_world_size())).backward()


class _Centred(nn.Module):
    """Mixes its samples, on one rank alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = network()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inside(inputs - inputs.mean(0) if _is_last() else inputs)


def _centred() -> Any:
    model: Any = _Centred()
    sharded(model.inside, root=False)
    return fully_shard(model)


def samples_of_shards_mixed_on_one_rank() -> Any:
    """With a second micro-batch, in which no rank waits for one that asks."""
    model = _centred()
    with adk.layer_statistics(model) as recorder:
        for _ in range(2):
            _backward(model, *share())
        recorder.statistics()


class _Folded(nn.Module):
    """Gives a layer another number of rows than it has samples: on one rank, once it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = network()

    def forward(self, inputs: Tensor) -> Tensor:
        folds = _is_last() and torch.is_grad_enabled()
        return self.inside(torch.cat([inputs, inputs[:1]]) if folds else inputs)[: len(inputs)]


def rows_of_shards_that_are_no_samples_on_one_rank() -> Any:
    """Which shows in the first of three micro-batches, behind the question."""
    model: Any = _Folded()
    sharded(model.inside, root=False)
    fully_shard(model)
    with adk.layer_statistics(model) as recorder:
        for _ in range(3):
            _backward(model, *share())
        recorder.statistics()


def the_step_after_an_error_of_shards_is_measured() -> Any:
    model = sharded(network())
    inputs, targets = share()
    sizes: list[Any] = []
    with adk.layer_statistics(model) as recorder:
        for bad in (True, False):
            model.zero_grad()
            given = torch.full_like(inputs, torch.nan) if bad and _is_last() else inputs
            _backward(model, given, targets)
            try:
                sizes.append(recorder.statistics().batch_size)
            except ValueError as error:
                sizes.append("not finite" in str(error))
    return sizes


def gradients_of_shards_gone_on_one_rank() -> Any:
    model = sharded(network())
    with adk.layer_statistics(model) as recorder:
        _backward(model, *share())
        if _is_last():
            model.zero_grad()
        recorder.statistics()


def gradients_of_shards_clipped_on_one_rank() -> Any:
    model = sharded(network())
    with adk.layer_statistics(model) as recorder:
        _backward(model, *share())
        if _is_last():
            model[0].weight.grad.to_local().mul_(0.5)
        recorder.statistics()


def gradients_of_shards_clipped_between_micro_batches_on_one_rank() -> Any:
    """Before one of another form, of which the other ranks would ask."""
    model = sharded(network())
    inputs, targets = share()
    with adk.layer_statistics(model) as recorder:
        _backward(model, inputs, targets)
        if _is_last():
            model[0].weight.grad.to_local().mul_(0.5)
        for _ in range(2):
            _backward(model, inputs[:1], targets[:1])
        recorder.statistics()


def rows_of_shards_that_are_no_samples_before_a_new_question() -> Any:
    """On one rank; the others would ask of a micro-batch of another form then."""
    model: Any = _Folded()
    sharded(model.inside, root=False)
    fully_shard(model)
    inputs, targets = share()
    with adk.layer_statistics(model) as recorder:
        _backward(model, inputs, targets)
        for _ in range(2):
            _backward(model, inputs[:1], targets[:1])
        recorder.statistics()


def gradients_of_shards_dropped_between_micro_batches() -> Any:
    model = sharded(network())
    with adk.layer_statistics(model) as recorder:
        _backward(model, *share())
        model.zero_grad()
        _backward(model, *share())
        recorder.statistics()


def gradients_of_shards_left_by_an_earlier_step() -> Any:
    model = sharded(network())
    with adk.layer_statistics(model) as recorder:
        for _ in range(2):
            _backward(model, *share())
            recorder.statistics()


def sync_of_shards_is_left_off() -> Any:
    model = sharded(network())
    model.set_requires_gradient_sync(False)
    with adk.layer_statistics(model) as recorder:
        _backward(model, *share())
        recorder.statistics()


def parameters_of_one_replica_alone() -> Any:
    """Of two, each of which half of the ranks share."""
    model = sharded(network(), mesh=replicated(dist.get_world_size() // 2))
    if _is_last():
        with torch.no_grad():
            model[0].weight.to_local().mul_(1.001)
    with adk.layer_statistics(model) as recorder:
        _backward(model, *share())
        recorder.statistics()


def losses_of_shards_on_some_ranks_alone() -> Any:
    model = sharded(network())
    losses = None if _is_last() else own_losses(model, *share())
    with adk.layer_statistics(model) as recorder:
        _backward(model, *share())
        recorder.statistics(losses)


def losses_of_shards_of_too_few_samples() -> Any:
    """On one rank; the model runs on all."""
    model = sharded(network())
    inputs, targets = share()
    losses = own_losses(model, inputs, targets)
    with adk.layer_statistics(model) as recorder:
        _backward(model, inputs, targets)
        recorder.statistics(lambda: losses()[1:] if _is_last() else losses())


def products_of_shards_without_losses() -> Any:
    model = sharded(network())
    with adk.layer_statistics(model, inner_products=True) as recorder:
        _backward(model, *share())
        recorder.statistics()


CASES = (
    samples_of_shards_mixed_on_one_rank,
    rows_of_shards_that_are_no_samples_on_one_rank,
    the_step_after_an_error_of_shards_is_measured,
    gradients_of_shards_gone_on_one_rank,
    gradients_of_shards_clipped_on_one_rank,
    gradients_of_shards_clipped_between_micro_batches_on_one_rank,
    rows_of_shards_that_are_no_samples_before_a_new_question,
    gradients_of_shards_dropped_between_micro_batches,
    gradients_of_shards_left_by_an_earlier_step,
    sync_of_shards_is_left_off,
    parameters_of_one_replica_alone,
    losses_of_shards_on_some_ranks_alone,
    losses_of_shards_of_too_few_samples,
    products_of_shards_without_losses,
)
