"""Stages of a pipeline against a loop over single samples; run by ``support.ranks``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from pipeline_models import WIDTH, Pipeline, deep, measured, mesh_of, told
from small_models import SAMPLES, Expected, data
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks


def _alone(**settings: Any) -> Pipeline:
    """One pipeline over all ranks."""
    return Pipeline(deep(), mesh_of(dist.get_world_size()), **settings)


def all_forward_then_all_backward() -> Any:
    return measured(_alone(kind=ScheduleGPipe))


def one_forward_one_backward() -> Any:
    return measured(_alone(kind=Schedule1F1B, micro_batches=6))


def a_single_micro_batch() -> Any:
    return measured(_alone(micro_batches=1))


def one_sample_in_a_micro_batch() -> Any:
    inputs, targets = data(6)
    expected = Expected.of(deep(), inputs, targets)
    pipeline = _alone(kind=Schedule1F1B, micro_batches=6)
    return measured(pipeline, inputs, targets, expected=expected)


def layers_that_only_listen() -> Any:
    return measured(_alone(kind=Schedule1F1B), shadow=True)


def a_scaled_loss_in_a_pipeline() -> Any:
    pipeline = _alone(loss=lambda outputs, targets: 1024.0 * F.cross_entropy(outputs, targets))
    with adk.layer_statistics(pipeline.module, variance=True, ranks=pipeline.ranks) as recorder:
        pipeline.step(*data())
        record = recorder.statistics(grad_scale=1024.0)
    return told(record)


def _share_of_the_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="sum") / SAMPLES


def gradients_that_no_schedule_divides() -> Any:
    return measured(_alone(loss=_share_of_the_mean, scale_grads=False))


def two_steps_of_a_schedule_that_divides_nothing() -> Any:
    pipeline = _alone(loss=_share_of_the_mean, scale_grads=False, kind=Schedule1F1B)
    inputs, targets = data()
    half = SAMPLES // 2
    with adk.layer_statistics(pipeline.module, variance=True, ranks=pipeline.ranks) as recorder:
        pipeline.step(inputs[:half], targets[:half])
        pipeline.go_on(inputs[half:], targets[half:])
        record = recorder.statistics()
    return told(record)


def a_divisor_of_the_users() -> Any:
    """As of gradients that are summed over samples, in a loss without a mean."""
    pipeline = _alone(loss=lambda o, t: 4.0 * _share_of_the_mean(o, t), micro_batches=4)
    return measured(pipeline, ranks=Ranks(pipeline=pipeline.group, gradient_divisor=4.0))


def steps_that_are_not_measured() -> Any:
    """Between two that are; an evaluation too."""
    pipeline = _alone(kind=Schedule1F1B)
    inputs, targets = data()
    seen = []
    with adk.layer_statistics(pipeline.module, ranks=pipeline.ranks, interval=2) as recorder:
        for _ in range(4):
            pipeline.step(inputs, targets)
            record = recorder.statistics()
            seen.append(record is not None)
            with torch.no_grad():
                pipeline.module(torch.zeros(2, 6 if pipeline.is_first else WIDTH).double())
    assert seen == [False, True, False, True]
    return told(record)


class _Block(nn.Module):
    """Attention and a module without a kernel, run again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.slope = nn.PReLU(WIDTH)
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def _inside(self, states: Tensor) -> Tensor:
        states = states + self.attention(self.norm(states), states, states)[0]
        return states + self.conv(self.slope(states.mT)).mT

    def forward(self, states: Tensor) -> Tensor:
        return checkpoint(self._inside, states, use_reentrant=False)


class _Table(nn.Module):
    """Tokens, and positions that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(7, WIDTH), nn.Embedding(5, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))


def _tokens_model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        blocks = _Table(), _Block(), _Block(), nn.Linear(WIDTH, 7, bias=False)
        return nn.Sequential(*blocks).double()


def _next_tokens(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def tokens_attention_and_checkpoints() -> Any:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(7, (8, 5), generator=generator)
    alone, rows = _tokens_model(), []
    for i in range(len(tokens)):
        value = _next_tokens(alone(tokens[i : i + 1]), tokens[i : i + 1])
        grads = torch.autograd.grad(value, list(alone.parameters()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    expected = Expected(torch.stack(rows), {n: p.shape for n, p in alone.named_parameters()})
    mesh = mesh_of(dist.get_world_size())
    pipeline = Pipeline(_tokens_model(), mesh, kind=Schedule1F1B, loss=_next_tokens)
    return measured(pipeline, tokens, tokens, expected=expected)


def nothing_to_train_in_the_first_stage() -> Any:
    model = deep()
    model[0].requires_grad_(False)
    if dist.get_world_size() == 2:
        model[1].requires_grad_(False)
    kept = {name: p for name, p in model.named_parameters() if p.requires_grad}
    inputs, targets = data()
    rows = []
    for i in range(SAMPLES):
        value = F.cross_entropy(model(inputs[i : i + 1]), targets[i : i + 1])
        grads = torch.autograd.grad(value, list(kept.values()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    expected = Expected(torch.stack(rows), {name: p.shape for name, p in kept.items()})
    return measured(Pipeline(model, mesh_of(dist.get_world_size())), expected=expected)


def passes_of_a_loop_of_ones_own() -> Any:
    """Without a schedule of torch: two forward passes, then two backward passes."""
    mesh = mesh_of(dist.get_world_size())
    group = mesh["pipeline"].get_group()
    from pipeline_models import blocks_of

    module = blocks_of(deep(), mesh)
    rank, last = dist.get_rank(), dist.get_world_size() - 1
    inputs, targets = data()
    with adk.layer_statistics(
        module, variance=True, inner_products=True, ranks=Ranks(pipeline=group)
    ) as recorder:
        waiting = []
        for part, wanted in zip(inputs.chunk(2), targets.chunk(2), strict=True):
            given = part
            if rank:
                given = torch.empty(len(part), WIDTH, dtype=torch.float64)
                dist.recv(given, rank - 1)
                given.requires_grad_()
            outputs = module(given)
            if rank < last:
                dist.send(outputs.detach(), rank + 1)
            waiting.append((given, outputs, wanted))
        for given, outputs, wanted in waiting:
            if rank == last:
                (F.cross_entropy(outputs, wanted) / 2).backward()
            else:
                grad = torch.empty_like(outputs)
                dist.recv(grad, rank + 1)
                outputs.backward(grad)
            if rank:
                dist.send(given.grad, rank - 1)
        record = recorder.statistics()
    return told(record)


# Over two dimensions of processes, each of whose pipelines has half of the samples.


def _half(mesh: Any) -> tuple[Tensor, Tensor]:
    inputs, targets = data()
    own = mesh.get_local_rank("data")
    return inputs[own::2], targets[own::2]


def pipelines_in_wrappers() -> Any:
    mesh = mesh_of(dist.get_world_size() // 2)
    group = mesh["data"].get_group()
    pipeline = Pipeline(
        deep(),
        mesh,
        kind=Schedule1F1B,
        wrap=lambda module: DistributedDataParallel(module, process_group=group),
    )
    # The names of the coordinates are those inside of the wrapper.
    return measured(pipeline, *_half(mesh))


def pipelines_of_shards() -> Any:
    mesh = mesh_of(dist.get_world_size() // 2)

    def wrap(module: Any) -> Any:
        for block in module:
            fully_shard(block, mesh=mesh["data"])
        return fully_shard(module, mesh=mesh["data"])

    return measured(Pipeline(deep(), mesh, wrap=wrap), *_half(mesh), steps=3)


def pipelines_of_shards_one_by_one() -> Any:
    mesh = mesh_of(dist.get_world_size() // 2)
    pipeline = Pipeline(
        deep(), mesh, kind=Schedule1F1B, wrap=lambda module: fully_shard(module, mesh=mesh["data"])
    )
    return measured(pipeline, *_half(mesh), steps=3)


class _Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, states: Tensor) -> Tensor:
        return states + self.down(torch.tanh(self.up(states)))


def _wide() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(_Wide(), _Wide(), _Wide(), _Wide()).double()


def pipelines_of_plans() -> Any:
    mesh = mesh_of(dist.get_world_size() // 2)
    plan = {"*.up": ColwiseParallel(), "*.down": RowwiseParallel()}
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(SAMPLES, WIDTH, generator=generator, dtype=torch.float64)
    _, targets = data()
    pipeline = Pipeline(
        _wide(), mesh, wrap=lambda module: parallelize_module(module, mesh["data"], plan)
    )
    expected = Expected.of(_wide(), inputs, targets)
    return measured(pipeline, inputs, targets, expected=expected, inner_products=False)


def _sizes(module: nn.Module, step: Any, ranks: Any) -> list[float]:
    """What tests decide on after two steps."""
    optimizer = adk.Adagrad(module.parameters(), lr=0.1)
    tests = (
        adk.NormTest(eta=0.5),
        adk.AugmentedInnerProductTest(theta=0.5, nu=2.0),
        adk.CoordinateNormTest(eta=0.5),
        adk.CoordinateNormTest(eta=0.5, quantile=0.5),
        adk.MetricNormTest(0.5, "sign"),
        adk.MetricNormTest(0.5, "adagrad", optimizer, module.named_parameters()),
        adk.GradientDiversity(delta=0.1, dataset_size=SAMPLES),
    )
    with adk.layer_statistics(module, variance=True, inner_products=True, ranks=ranks) as recorder:
        for _ in range(2):
            optimizer.zero_grad()
            step()
            record = recorder.statistics()
            optimizer.step()
    return [test(record).batch_size for test in tests]


def tests_decide_as_on_one_process() -> Any:
    pipeline, alone = _alone(kind=Schedule1F1B), deep()
    inputs, targets = data()
    ours = _sizes(pipeline.module, lambda: pipeline.go_on(inputs, targets), pipeline.ranks)

    def step() -> None:
        F.cross_entropy(alone(inputs), targets).backward()

    return ours, _sizes(alone, step, "local")


EXACT = (
    all_forward_then_all_backward,
    one_forward_one_backward,
    a_single_micro_batch,
    one_sample_in_a_micro_batch,
    layers_that_only_listen,
    a_scaled_loss_in_a_pipeline,
    gradients_that_no_schedule_divides,
    two_steps_of_a_schedule_that_divides_nothing,
    a_divisor_of_the_users,
    steps_that_are_not_measured,
    tokens_attention_and_checkpoints,
    nothing_to_train_in_the_first_stage,
    passes_of_a_loop_of_ones_own,
    pipelines_in_wrappers,
    pipelines_of_shards,
    pipelines_of_shards_one_by_one,
    pipelines_of_plans,
)
CASES = (*EXACT, tests_decide_as_on_one_process)
