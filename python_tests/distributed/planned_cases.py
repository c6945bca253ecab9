"""Models of a tensor-parallel plan, alone and with ``fully_shard``; run by ``support.ranks``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from sharded_models import told
from small_models import SAMPLES, Expected
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.nn import functional as F

import adadagrad_kernels as adk


class Tokens(nn.Module):
    """A table, a block with norms and a head, of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)
        self.last = nn.RMSNorm(8)
        self.head = nn.Linear(8, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.table(tokens)
        states = states + self.down(torch.tanh(self.up(self.norm(states))))
        return self.head(self.last(states))


#: Of a plan without sequence parallel, and with it.
PLAIN = {
    "table": ColwiseParallel(output_layouts=Replicate()),
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
    "head": ColwiseParallel(output_layouts=Replicate()),
}
SEQUENCE = {
    "table": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    "norm": SequenceParallel(),
    "up": ColwiseParallel(input_layouts=Shard(1)),
    "down": RowwiseParallel(output_layouts=Shard(1)),
    "last": SequenceParallel(),
    "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
}


def tokens_model() -> Tokens:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Tokens().double()


def tokens(length: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(11, (SAMPLES, length), generator=generator)


def losses(model: nn.Module, rows: Tensor) -> Tensor:
    """Of the samples."""
    logits = model(rows)[:, :-1]
    each = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    return each.view(len(rows), -1).mean(1)


def _expected(rows: Tensor) -> Expected:
    alone, found = tokens_model(), []
    for i in range(len(rows)):
        value = losses(alone, rows[i : i + 1]).mean()
        grads = torch.autograd.grad(value, list(alone.parameters()))
        found.append(torch.cat([grad.flatten() for grad in grads]))
    return Expected(torch.stack(found), {n: p.shape for n, p in alone.named_parameters()})


def _measured(
    plan: Any, *, over: int | None = None, parts: int = 1, products: bool = True, **how: Any
) -> Any:
    """A plan over so many ranks of a mesh, and ``fully_shard`` over the others."""
    world = dist.get_world_size()
    over = world if over is None else over
    others = world // over
    model: Any = tokens_model()
    rows = tokens()
    mesh = init_device_mesh("cpu", (others, over), mesh_dim_names=("data", "tensor"))
    parallelize_module(model, mesh["tensor"], dict(plan))
    if others > 1 or how:
        for layer in (model.table, model.norm, model.up, model.down, model.last, model.head):
            fully_shard(layer, mesh=mesh["data"], **how)
        fully_shard(model, mesh=mesh["data"], **how)
    own = rows[mesh.get_local_rank("data") :: others]
    with adk.layer_statistics(model, variance=True) as recorder:
        for _ in range(2):
            model.zero_grad()
            for place, part in enumerate(own.chunk(parts)):
                if others > 1:
                    model.set_requires_gradient_sync(place == parts - 1)
                (losses(model, part).sum() * others / SAMPLES).backward()
            along = (lambda: losses(model, own)) if products else None
            record = recorder.statistics(along, exact=False)
    return told(record, _expected(rows))


def a_plan() -> Any:
    return _measured(PLAIN)


def a_plan_of_micro_batches() -> Any:
    return _measured(PLAIN, parts=3)


def a_sequence_parallel_plan() -> Any:
    return _measured(SEQUENCE)


def a_sequence_parallel_plan_of_micro_batches() -> Any:
    return _measured(SEQUENCE, parts=2)


def inner_products_of_the_layers() -> Any:
    """In the backward pass of a single micro-batch, without a second one."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = parallelize_module(tokens_model(), mesh, dict(SEQUENCE))
    with adk.layer_statistics(model, inner_products=True, variance=True) as recorder:
        losses(model, tokens()).mean().mul(8.0).backward()
        record = recorder.statistics(grad_scale=8.0)
    return told(record, _expected(tokens()))


def a_plan_beside_shards() -> Any:
    return _measured(PLAIN, over=dist.get_world_size() // 2)


def a_sequence_parallel_plan_beside_shards() -> Any:
    return _measured(SEQUENCE, over=2, reshard_after_forward=True)


def micro_batches_of_a_plan_beside_shards() -> Any:
    return _measured(SEQUENCE, over=2, parts=2, reshard_after_forward=False)


EXACT = (
    a_plan,
    a_plan_of_micro_batches,
    a_sequence_parallel_plan,
    a_sequence_parallel_plan_of_micro_batches,
    inner_products_of_the_layers,
    a_plan_beside_shards,
    a_sequence_parallel_plan_beside_shards,
    micro_batches_of_a_plan_beside_shards,
)
CASES = (*EXACT,)
