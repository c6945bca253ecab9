"""One rank goes wrong: an error on every rank, none left waiting; run by ``support.ranks``."""

from __future__ import annotations

import contextlib
import datetime
import time
from typing import Any

import torch
import torch.distributed as dist
from small_models import loss, network, share
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks, WorkerGradients, pool

#: Seconds that a rank waits for one that does not come.
SHORT = 2.0


def _is_last() -> bool:
    return dist.get_rank() == dist.get_world_size() - 1


def _step(model: nn.Module, recorder: Any) -> Any:
    inputs, targets = share()
    loss(model(inputs), targets).backward()
    return recorder.statistics()


def gradients_gone_on_one_rank() -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = share()
    with adk.layer_statistics(model) as recorder:
        loss(model(inputs), targets).backward()
        if _is_last():
            model.zero_grad()
        recorder.statistics()


def not_a_number_on_one_rank() -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = share()
    if _is_last():
        inputs = torch.full_like(inputs, torch.nan)
    with adk.layer_statistics(model) as recorder:
        loss(model(inputs), targets).backward()
        recorder.statistics()


def not_a_number_that_is_recorded() -> Any:
    """No error: every controller keeps the size."""
    model = DistributedDataParallel(network())
    inputs, targets = share()
    if _is_last():
        inputs = torch.full_like(inputs, torch.nan)
    controller = adk.BatchController(adk.NormTest(eta=0.1), batch_size=24, max_batch_size=96)
    with adk.layer_statistics(model, on_nonfinite="record") as recorder:
        loss(model(inputs), targets).backward()
        size = controller.update(recorder.statistics())
    return size, controller.nonfinite_steps


class _Centred(nn.Module):
    """Mixes its samples, on one rank alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = network()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.inside(inputs - inputs.mean(0) if _is_last() else inputs)


def samples_mixed_on_one_rank() -> Any:
    _of_centred()


def _of_centred() -> None:
    model = DistributedDataParallel(_Centred())
    with adk.layer_statistics(model) as recorder:
        _step(model, recorder)


def the_step_after_an_error_is_measured() -> Any:
    """The refused model leaves nothing behind that a next one would run into."""
    with contextlib.suppress(adk.UnsupportedModelError):
        _of_centred()
    model = DistributedDataParallel(network())
    with adk.layer_statistics(model) as recorder:
        return _step(model, recorder).batch_size


class _Folded(nn.Module):
    """Gives a layer another number of rows than it has samples, on one rank alone."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = network()
        self.asked = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.asked += 1
        rows = torch.cat([inputs, inputs[:1]]) if _is_last() else inputs
        return self.inside(rows)[: len(inputs)]


def rows_that_are_no_samples_on_one_rank() -> Any:
    model = DistributedDataParallel(_Folded())
    with adk.layer_statistics(model) as recorder:
        _step(model, recorder)


def the_forward_pass_goes_around_the_wrapper() -> Any:
    model = DistributedDataParallel(network())
    with adk.layer_statistics(model) as recorder:
        _step(model.module, recorder)


def no_sync_is_left_on() -> Any:
    model = DistributedDataParallel(network())
    with adk.layer_statistics(model) as recorder, model.no_sync():
        _step(model, recorder)


def inner_products_without_losses() -> Any:
    model = DistributedDataParallel(network())
    with adk.layer_statistics(model, inner_products=True) as recorder:
        _step(model, recorder)


def a_hook_changes_a_gradient_before_it_is_reduced() -> Any:
    """On one rank, once it is in .grad."""
    model = DistributedDataParallel(network())

    def halve(parameter: Tensor) -> None:
        parameter.grad.mul_(0.5)

    if _is_last():
        model.module[0].weight.register_post_accumulate_grad_hook(halve)
    with adk.layer_statistics(model) as recorder:
        _step(model, recorder)


def _part(model: nn.Module) -> None:
    """As a checkpoint that one rank alone has loaded."""
    if _is_last():
        with torch.no_grad():
            model.module[0].weight.mul_(1.001)


def parameters_of_their_own_on_one_rank() -> Any:
    model = DistributedDataParallel(network())
    _part(model)
    with adk.layer_statistics(model) as recorder:
        _step(model, recorder)


def parameters_of_their_own_under_micro_batches() -> Any:
    model = DistributedDataParallel(network())
    _part(model)
    source = adk.MicroBatchGradients(model)
    inputs, targets = share()
    for rows, context in ((slice(0, 2), model.no_sync()), (slice(2, None), None)):
        with context or contextlib.nullcontext(), source.micro_batch(len(inputs[rows])):
            loss(model(inputs[rows]), targets[rows]).backward()
    source.result()


def a_learning_rate_of_its_own_on_one_rank() -> Any:
    """Shows in the second step, whose parameters are no longer the same."""
    model = DistributedDataParallel(network())
    optimizer = adk.Adagrad(model.parameters(), lr=0.11 if _is_last() else 0.1)
    with adk.layer_statistics(model) as recorder:
        _step(model, recorder)
        optimizer.step()
        optimizer.zero_grad()
        _step(model, recorder)


def losses_of_too_few_samples_on_one_rank() -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = share()
    rows = slice(1, None) if _is_last() else slice(None)
    with adk.layer_statistics(model) as recorder:
        loss(model(inputs), targets).backward()
        recorder.statistics(
            lambda: F.cross_entropy(model.module(inputs[rows]), targets[rows], reduction="none")
        )


def no_samples_on_any_rank() -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = (tensor[:0] for tensor in share())
    with adk.layer_statistics(model) as recorder:
        F.cross_entropy(model(inputs), targets, reduction="sum").backward()
        recorder.statistics()


def controllers_that_part() -> Any:
    """One of them has other settings: the next numbers show it."""
    model = DistributedDataParallel(network())
    eta = 0.01 if _is_last() else 100.0
    controller = adk.BatchController(adk.NormTest(eta=eta), batch_size=24, max_batch_size=96)
    with adk.layer_statistics(model) as recorder:
        controller.update(_step(model, recorder))
        model.zero_grad()
        _step(model, recorder)


def ranks_in_different_steps() -> Any:
    model = DistributedDataParallel(network())
    with adk.layer_statistics(model) as recorder:
        if _is_last():
            recorder._steps += 1
        _step(model, recorder)


def per_sample_gradients_of_nothing_on_one_rank() -> Any:
    inputs, targets = share()
    rows = slice(0, 0) if _is_last() else slice(None)
    source = adk.PerSampleGradients(network(), loss, ranks=Ranks())
    source.backward(inputs[rows], targets[rows])


def records_without_a_mean_on_one_rank() -> Any:
    mean = None if _is_last() else {"weight": torch.ones(2)}
    pool(adk.GradientStatistics(2, 2.0, 4.0, mean_gradient=mean), Ranks())


def a_record_that_is_pooled_twice() -> Any:
    own = adk.PerSampleGradients(network(), loss, ranks="local").backward(*share())
    pool(pool(own, Ranks()), Ranks())


def records_of_other_parameters_on_one_rank() -> Any:
    mean = {"weight": torch.ones(3 if _is_last() else 2)}
    pool(adk.GradientStatistics(2, 2.0, 4.0, mean_gradient=mean), Ranks())


def no_backward_pass_on_one_rank() -> Any:
    model = DistributedDataParallel(network())
    source = WorkerGradients(model)
    inputs, targets = share()
    with source.backward(len(inputs)):
        value = loss(model(inputs), targets)
        if not _is_last():
            value.backward()
    if _is_last():
        # So that the others' gradients are reduced; nothing of it is seen.
        value.backward()
    source.result()


def a_backward_pass_after_the_reduced_one() -> Any:
    model = DistributedDataParallel(network())
    source = WorkerGradients(model)
    inputs, targets = share()
    for _ in range(2):
        with source.backward(len(inputs)):
            loss(model(inputs), targets).backward()


def workers_of_one_rank() -> Any:
    WorkerGradients(network(), "local")


def lookups_of_other_lengths_on_one_rank() -> Any:
    layer = nn.Embedding(4, 1)
    mean = adk.EmbeddingMean(layer, ranks=Ranks())
    longer = torch.zeros(3 if _is_last() else 2, dtype=torch.long)
    (layer(longer).sum() + layer(torch.zeros(2, dtype=torch.long)).sum()).backward()
    mean.rescale_()


def one_rank_does_not_come() -> Any:
    """The others are told within the time limit of their group."""
    patience = datetime.timedelta(seconds=SHORT)
    group = dist.new_group(timeout=patience)
    model = DistributedDataParallel(network())
    inputs, targets = share()
    begun = time.monotonic()
    with adk.layer_statistics(model, ranks=group) as recorder:
        loss(model(inputs), targets).backward()
        if _is_last():
            time.sleep(2 * SHORT)
            return "did not come"
        try:
            recorder.statistics()
        except RuntimeError as error:
            return str(error), time.monotonic() - begun
    return "no error"


CASES = (
    gradients_gone_on_one_rank,
    not_a_number_on_one_rank,
    not_a_number_that_is_recorded,
    samples_mixed_on_one_rank,
    the_step_after_an_error_is_measured,
    rows_that_are_no_samples_on_one_rank,
    the_forward_pass_goes_around_the_wrapper,
    no_sync_is_left_on,
    inner_products_without_losses,
    a_hook_changes_a_gradient_before_it_is_reduced,
    parameters_of_their_own_on_one_rank,
    parameters_of_their_own_under_micro_batches,
    a_learning_rate_of_its_own_on_one_rank,
    losses_of_too_few_samples_on_one_rank,
    no_samples_on_any_rank,
    controllers_that_part,
    ranks_in_different_steps,
    per_sample_gradients_of_nothing_on_one_rank,
    records_without_a_mean_on_one_rank,
    a_record_that_is_pooled_twice,
    records_of_other_parameters_on_one_rank,
    no_backward_pass_on_one_rank,
    a_backward_pass_after_the_reduced_one,
    workers_of_one_rank,
    lookups_of_other_lengths_on_one_rank,
    one_rank_does_not_come,
)
