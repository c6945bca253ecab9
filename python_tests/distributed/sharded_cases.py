"""Models of ``fully_shard`` against all samples at once: run on every rank by ``support.ranks``.

Where a case gives errors, they are those of the record, relative to plain autograd's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from sharded_models import measured, own_losses, replicated, sharded, told, weighted
from small_models import SAMPLES, Expected, data, network, share
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks


def layers_and_root() -> Any:
    return measured(sharded(network()), *share())


def the_root_alone() -> Any:
    return measured(sharded(network(), layers=False), *share())


def layers_without_a_root() -> Any:
    return measured(sharded(network(), root=False), *share())


def whole_after_the_forward_pass() -> Any:
    return measured(sharded(network(), reshard_after_forward=False), *share(), steps=3)


def cut_again_after_the_forward_pass() -> Any:
    return measured(sharded(network(), reshard_after_forward=True), *share(), steps=3)


def made_after_an_evaluation() -> Any:
    """Which leaves whole parameters in the root."""
    model = sharded(network(), layers=False)
    with torch.no_grad():
        model(share()[0])
    return measured(model, *share())


def evaluated_between_steps() -> Any:
    model = sharded(network())
    inputs, targets = share()
    by = float(dist.get_world_size())
    with adk.layer_statistics(model, variance=True) as recorder:
        for _ in range(2):
            model.zero_grad()
            weighted(model, inputs, targets, by=by).backward()
            record = recorder.statistics()
            with torch.no_grad():
                model(inputs)
    return told(record)


def a_scaled_loss_of_shards() -> Any:
    return measured(sharded(network()), *share(), scale=1024.0)


def products_by_a_difference() -> Any:
    return measured(sharded(network()), *share(), exact=False)


def one_sample_on_the_first_rank_of_shards() -> Any:
    """Which then asks its model again, as only the others could at first."""
    inputs, targets = data()
    world, rank = dist.get_world_size(), dist.get_rank()
    cuts = [0, *range(1, SAMPLES, -(-SAMPLES // (world - 1)))]
    cuts = [*cuts[:world], SAMPLES]
    own = slice(cuts[rank], cuts[rank + 1])
    model = sharded(network())
    with adk.layer_statistics(model, variance=True) as recorder:
        for place in (own, slice(rank, None, world), own):
            model.zero_grad()
            weighted(model, inputs[place], targets[place], by=float(world)).backward()
            record = recorder.statistics(own_losses(model, inputs[place], targets[place]))
    return told(record)


def none_on_the_last_rank_of_shards() -> Any:
    inputs, targets = data()
    others = dist.get_world_size() - 1
    own = slice(dist.get_rank(), SAMPLES, others) if dist.get_rank() < others else slice(0, 0)
    return measured(sharded(network()), inputs[own], targets[own])


def _accumulated(sizes: Sequence[int], *, sync: bool, **how: Any) -> Any:
    model = sharded(network(), **how)
    inputs, targets = share()
    by = float(dist.get_world_size())
    with adk.layer_statistics(model, variance=True) as recorder:
        for _ in range(2):
            model.zero_grad()
            start = 0
            for place, size in enumerate([*sizes, len(inputs) - sum(sizes)]):
                own = slice(start, start + size)
                model.set_requires_gradient_sync(sync or place == len(sizes))
                weighted(model, inputs[own], targets[own], by=by).backward()
                start += size
            record = recorder.statistics(own_losses(model, inputs, targets))
    return told(record)


def micro_batches_of_shards_without_sync() -> Any:
    return _accumulated([2, 1], sync=False)


def micro_batches_of_shards_with_sync() -> Any:
    return _accumulated([2, 1], sync=True, reshard_after_forward=False)


class _Checkpointed(nn.Sequential):
    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self:
            inputs = checkpoint(layer, inputs, use_reentrant=False)
        return inputs


def checkpointed_layers_of_shards() -> Any:
    return measured(sharded(_Checkpointed(*network())), *share())


def sums_that_are_not_divided() -> Any:
    """As in torchtitan."""
    model = sharded(network())
    for module in model.modules():
        if isinstance(module, FSDPModule):
            name = "set_gradient_divide_factor"  # in torch before 2.8 it has another name
            divide = getattr(module, name, None) or module.set_reduce_scatter_divide_factor
            divide(1.0)
    return measured(model, *share(), by=1.0, ranks=Ranks(gradient_divisor=1.0))


def compiled_layers_of_shards() -> Any:
    """With graphs that the sharded modules interrupt."""
    model = sharded(network())
    return measured(model, *share(), compiled=torch.compile(model, backend="aot_eager"))


def compiled_blocks_of_shards() -> Any:
    """Each compiled by itself, before it is sharded."""
    model = network()
    for layer in model:
        layer.compile(backend="aot_eager")
    return measured(sharded(model), *share())


class _Tied(nn.Module):
    """A table that is also the head, attention, a convolution and norms."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.RMSNorm(6)
        self.conv = nn.Conv1d(6, 6, 3, padding=1)
        self.group = nn.GroupNorm(2, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.table(tokens)
        states = states + self.attention(self.norm(states), states, states)[0]
        states = states + self.group(self.conv(states.mT)).mT
        return self.head(states)


def _tied() -> _Tied:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return _Tied().double()


def _next_tokens(model: nn.Module, tokens: Tensor) -> Tensor:
    """The losses of the samples."""
    logits = model(tokens)[:, :-1]
    each = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return each.view(len(tokens), -1).mean(1)


def tied_weights_attention_and_convolution() -> Any:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(7, (SAMPLES, 5), generator=generator)
    alone = _tied()
    rows = []
    for i in range(SAMPLES):
        value = _next_tokens(alone, tokens[i : i + 1]).mean()
        grads = torch.autograd.grad(value, list(alone.parameters()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    expected = Expected(torch.stack(rows), {n: p.shape for n, p in alone.named_parameters()})
    model: Any = _tied()
    for layer in (model.attention, model.norm, model.conv, model.group):
        fully_shard(layer)
    fully_shard(model)
    own = tokens[dist.get_rank() :: dist.get_world_size()]
    with adk.layer_statistics(model, variance=True) as recorder:
        for _ in range(2):
            model.zero_grad()
            losses = _next_tokens(model, own)
            (losses.sum() * dist.get_world_size() / SAMPLES).backward()
            record = recorder.statistics(lambda: _next_tokens(model, own))
    return told(record, expected)


class _OfAll(nn.Sequential):
    """Takes no other batch than the whole one: it breaks off where the model is asked."""

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = super().forward(inputs)
        if len(inputs) != SAMPLES // dist.get_world_size():
            raise ValueError(f"{len(inputs)} samples")
        return outputs


def a_module_that_breaks_off_when_it_is_asked() -> Any:
    """It is in the middle of a forward pass then, which torch knows."""
    first, norm, tanh, last = network()
    model: Any = nn.Sequential(first, norm, tanh, _OfAll(last))
    model = sharded(model, reshard_after_forward=False)
    alone = network()
    expected = Expected.of(nn.Sequential(*alone[:3], nn.Sequential(alone[3])), *data())
    return measured(model, *share(), expected=expected)


def replicas_of_shards() -> Any:
    """HSDP: parts are held twice in a world of four, and count once."""
    mesh = replicated(2)
    return measured(sharded(network(), mesh=mesh), *share())


def replicas_of_whole_parameters() -> Any:
    mesh = replicated(1)
    return measured(sharded(network(), mesh=mesh), *share(), ranks=dist.group.WORLD)


def micro_batches_of_replicas() -> Any:
    mesh = replicated(2)
    return _accumulated([2, 1], sync=False, mesh=mesh)


def _sizes_by_coordinates(model: Any, inputs: Tensor, targets: Tensor, **how: Any) -> list[float]:
    """What tests that read every coordinate decide after two steps."""
    optimizer = adk.Adagrad(model.parameters(), lr=0.1)
    tests = (
        adk.CoordinateNormTest(eta=0.5, quantile=0.5),
        adk.MetricNormTest(0.5, "sign"),
        adk.MetricNormTest(0.5, "adagrad", optimizer, model.named_parameters()),
        adk.GradientDiversity(delta=0.1, dataset_size=SAMPLES),
    )
    by = float(dist.get_world_size()) if len(inputs) < SAMPLES else 1.0
    with adk.layer_statistics(model, variance=True, **how) as recorder:
        for _ in range(2):
            optimizer.zero_grad()
            weighted(model, inputs, targets, by=by).backward()
            record = recorder.statistics()
            optimizer.step()
    return [test(record).batch_size for test in tests]


def tests_that_read_every_coordinate() -> Any:
    """On a sharded model and on one process."""
    ours = _sizes_by_coordinates(sharded(network()), *share())
    return ours, _sizes_by_coordinates(network(), *data(), ranks="local")


EXACT = (
    layers_and_root,
    the_root_alone,
    layers_without_a_root,
    whole_after_the_forward_pass,
    cut_again_after_the_forward_pass,
    made_after_an_evaluation,
    evaluated_between_steps,
    a_scaled_loss_of_shards,
    one_sample_on_the_first_rank_of_shards,
    none_on_the_last_rank_of_shards,
    micro_batches_of_shards_without_sync,
    micro_batches_of_shards_with_sync,
    checkpointed_layers_of_shards,
    sums_that_are_not_divided,
    compiled_layers_of_shards,
    compiled_blocks_of_shards,
    tied_weights_attention_and_convolution,
    a_module_that_breaks_off_when_it_is_asked,
    replicas_of_shards,
    replicas_of_whole_parameters,
    micro_batches_of_replicas,
)
CASES = (*EXACT, products_by_a_difference, tests_that_read_every_coordinate)
