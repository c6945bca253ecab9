"""What stages of a pipeline refuse, and errors of one of them; run by ``support.ranks``."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist
from failing_cases import _is_last
from pipeline_models import WIDTH, Pipeline, deep, mesh_of
from small_models import SAMPLES, data, loss, network
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleInterleavedZeroBubble,
)

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import LocalGradients, Ranks, pool


def _alone(model: Any = None, **settings: Any) -> Pipeline:
    return Pipeline(model or deep(), mesh_of(dist.get_world_size()), **settings)


def _step(pipeline: Pipeline, **settings: Any) -> Any:
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks, **settings) as recorder:
        pipeline.step(*data())
        return recorder.statistics()


class _Centred(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states - states.mean(0)


def samples_mixed_in_the_last_stage() -> Any:
    model = deep()
    model[3].insert(0, _Centred())
    _step(_alone(model))


def not_a_number_in_the_last_stage() -> Any:
    """Which leaves those before it as they are: their gradients are zero."""
    pipeline = _alone()
    if _is_last():
        with torch.no_grad():
            next(pipeline.module.parameters())[0] = torch.nan
    _step(pipeline)


def gradients_of_the_last_stage_clipped() -> Any:
    pipeline = _alone(kind=Schedule1F1B)
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        pipeline.step(*data())
        if _is_last():
            nn.utils.clip_grad_norm_(pipeline.module.parameters(), 1e-3)
        recorder.statistics()


def gradients_of_shards_of_the_last_stage_clipped() -> Any:
    mesh = mesh_of(dist.get_world_size() // 2)
    pipeline = Pipeline(deep(), mesh, wrap=lambda module: fully_shard(module, mesh=mesh["data"]))
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        pipeline.step(*data())
        if _is_last():
            for parameter in pipeline.module.parameters():
                parameter.grad.to_local().mul_(0.5)
        recorder.statistics()


def gradients_left_in_the_last_stage() -> Any:
    pipeline = _alone()
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        pipeline.step(*data())
        recorder.statistics()
        if not _is_last():
            pipeline.module.zero_grad()
        pipeline.go_on(*data())
        recorder.statistics()


def the_step_after_an_error_of_a_stage_is_measured() -> Any:
    pipeline = _alone()
    inputs, targets = data()
    found: list[Any] = []
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        for bad in (True, False):
            pipeline.step(torch.full_like(inputs, torch.nan) if bad else inputs, targets)
            try:
                found.append(recorder.statistics().batch_size)
            except ValueError as error:
                found.append("not finite" in str(error))
    return found


def a_table_tied_over_two_stages() -> Any:
    """Each of which has a copy, whose gradients are added before every step."""
    model = deep()
    with torch.no_grad():
        model[3][1].weight = nn.Parameter(model[0][0].weight[:3, :].repeat(1, 2)[:, :WIDTH].clone())
        model[0].append(nn.Linear(WIDTH, 3, bias=False).double())
    tied = model[0][2].weight
    with torch.no_grad():
        tied.copy_(model[3][1].weight)
    model[0].append(_Dropped(model[0][2]))
    del model[0][2]
    pipeline = _alone(model)
    optimizer = torch.optim.SGD(pipeline.module.parameters(), lr=0.1)
    group = pipeline.group
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        for step in range(3):
            pipeline.step(*data())
            recorder.statistics()
            named = dict(pipeline.module.named_parameters())
            shared = [p for n, p in named.items() if n in ("0.2.inside.weight", "3.1.weight")]
            added = shared[0].grad if shared else torch.zeros(3, WIDTH).double()
            dist.all_reduce(added, group=group)
            optimizer.step()
            assert step < 2


class _Dropped(nn.Module):
    """Adds what a layer gives to its input, as far as that is as wide."""

    def __init__(self, inside: nn.Linear) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, states: Tensor) -> Tensor:
        return states + self.inside(states).sum(1, keepdim=True)


def another_step_of_a_schedule_that_divides() -> Any:
    pipeline = _alone()
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        pipeline.step(*data())
        pipeline.go_on(*data())
        recorder.statistics()


def another_step_with_inner_products() -> Any:
    pipeline = _alone(scale_grads=False)
    settings = {"ranks": pipeline.ranks, "inner_products": True}
    with adk.layer_statistics(pipeline.module, **settings) as recorder:
        pipeline.step(*data())
        pipeline.go_on(*data())
        recorder.statistics()


def losses_in_a_pipeline() -> Any:
    pipeline = _alone()
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        pipeline.step(*data())
        recorder.statistics(lambda: torch.zeros(SAMPLES))


def schedules_that_divide_differently() -> Any:
    _step(_alone(scale_grads=not _is_last()))


def a_part_of_a_stage_alone() -> Any:
    pipeline = _alone()
    given = torch.ones(4, 6 if pipeline.is_first else WIDTH, dtype=torch.float64)
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        next(pipeline.module.children())(given).sum().backward()
        recorder.statistics()


def stages_with_other_numbers_of_samples() -> Any:
    """As of micro-batches that are sent in the shape of the first."""
    pipeline = _alone()
    count = 5 if _is_last() else 4
    given = torch.ones(count, 6 if pipeline.is_first else WIDTH, dtype=torch.float64)
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        pipeline.module(given).sum().backward()
        recorder.statistics()


def _micro_batches_of_unequal_sizes(kind: Any) -> None:
    """In a group of their own, of two stages: connections break in the middle of a step."""
    soon = datetime.timedelta(seconds=10)
    pairs = [[place, place + 1] for place in range(0, dist.get_world_size(), 2)]
    groups = [dist.new_group(pair, timeout=soon) for pair in pairs]
    group = groups[dist.get_rank() // 2]
    place = dist.get_rank() % 2
    blocks = deep()
    module = blocks[2 * place : 2 * place + 2]
    stage = PipelineStage(module, place, 2, torch.device("cpu"), group=group)
    schedule = kind(stage, 4, loss_fn=loss)
    inputs, targets = data(22)
    given: Any = () if place else (inputs,)
    asked = {"target": targets} if place else {}
    alone = dist.new_group([dist.get_rank()], use_local_synchronization=True)
    with adk.layer_statistics(module, ranks=Ranks(alone, pipeline=group)):
        schedule.step(*given, **asked)


def micro_batches_of_unequal_sizes() -> Any:
    _micro_batches_of_unequal_sizes(ScheduleGPipe)


def micro_batches_of_unequal_sizes_one_by_one() -> Any:
    _micro_batches_of_unequal_sizes(Schedule1F1B)


def nothing_to_train_in_any_stage() -> Any:
    pipeline = _alone(deep().requires_grad_(False))
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks) as recorder:
        recorder.statistics()


def _of_one_process(kind: Any) -> Any:
    """Two stages on every rank, so that none waits for one that has raised."""
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    group = alone[dist.get_rank()]
    blocks = deep()
    modules = blocks[:2], blocks[2:]
    stages = [
        PipelineStage(module, place, 2, torch.device("cpu"), group=group)
        for place, module in enumerate(modules)
    ]
    schedule = kind(stages, 4, loss_fn=loss)
    inputs, targets = data()
    itself = Ranks(group, pipeline=group)
    with adk.layer_statistics(modules[0], ranks=itself) as recorder:
        schedule.step(inputs, target=targets)
        recorder.statistics()


def several_stages_on_a_rank() -> Any:
    _of_one_process(ScheduleInterleaved1F1B)


def gradients_of_inputs_and_of_parameters_apart() -> Any:
    _of_one_process(ScheduleInterleavedZeroBubble)


def a_stage_without_its_pipeline() -> Any:
    """Of one stage on every rank, so that none waits for one that has raised."""
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    model = network()
    stage = PipelineStage(model, 0, 1, torch.device("cpu"), group=alone[dist.get_rank()])
    inputs, targets = data()
    schedule = ScheduleGPipe(stage, 4, loss_fn=loss)
    with adk.layer_statistics(model, ranks="local"):
        schedule.step(inputs, target=targets)


def a_pipeline_among_others() -> Any:
    """Of which nothing tells whether they have the same stages."""
    alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    adk.layer_statistics(network(), ranks=Ranks(pipeline=alone[dist.get_rank()]))


def per_sample_gradients_of_a_stage() -> Any:
    adk.PerSampleGradients(network(), loss, ranks=_alone().ranks)


def local_gradients_of_a_stage() -> Any:
    LocalGradients(network(), _alone().ranks)


def a_record_that_is_pooled_over_stages() -> Any:
    pool(adk.GradientStatistics(2, 1.0, 2.0), _alone().ranks)


def records_of_a_pipeline_that_are_merged() -> Any:
    record = _step(_alone())
    record.merge(record)


def inner_products_of_a_plan_in_a_stage() -> Any:
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    mesh = mesh_of(dist.get_world_size() // 2)
    model = parallelize_module(network(), mesh["data"], {"0": ColwiseParallel()})
    ranks = Ranks(pipeline=mesh["pipeline"].get_group())
    adk.layer_statistics(model, ranks=ranks, inner_products=True)


CASES = (
    samples_mixed_in_the_last_stage,
    not_a_number_in_the_last_stage,
    gradients_of_the_last_stage_clipped,
    gradients_of_shards_of_the_last_stage_clipped,
    gradients_left_in_the_last_stage,
    the_step_after_an_error_of_a_stage_is_measured,
    a_table_tied_over_two_stages,
    another_step_of_a_schedule_that_divides,
    another_step_with_inner_products,
    losses_in_a_pipeline,
    schedules_that_divide_differently,
    a_part_of_a_stage_alone,
    stages_with_other_numbers_of_samples,
    micro_batches_of_unequal_sizes,
    micro_batches_of_unequal_sizes_one_by_one,
    nothing_to_train_in_any_stage,
    several_stages_on_a_rank,
    gradients_of_inputs_and_of_parameters_apart,
    a_stage_without_its_pipeline,
    a_pipeline_among_others,
    per_sample_gradients_of_a_stage,
    local_gradients_of_a_stage,
    a_record_that_is_pooled_over_stages,
    records_of_a_pipeline_that_are_merged,
    inner_products_of_a_plan_in_a_stage,
)
