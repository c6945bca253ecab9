"""Optimizers, samplers and whole runs over ranks against one process: run by ``support.ranks``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from pooled_cases import weighted
from small_models import data, loss, network, share
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks


def embedding_mean() -> Any:
    """Against one process with the indices of all."""
    indices = torch.tensor([[0, 1], [0, 0], [0, 3], [2, 1], [4, 4], [1, 5], [5, 5], [0, 2]])
    table = torch.linspace(-1.0, 1.0, 14).view(7, 2)
    weights = torch.arange(8.0)[:, None]

    def run(model: nn.Module, layer: nn.Embedding, own: slice, ranks: Any) -> Tensor:
        mean = adk.EmbeddingMean(layer, ranks=ranks)
        (model(indices[own]).sum(1) * weights[own]).sum(1).mean().backward()
        mean.rescale_()
        return layer.weight.grad.clone()

    alone = nn.Embedding(7, 2, _weight=table.clone())
    expected = run(alone, alone, slice(None), "local")
    layer = nn.Embedding(7, 2, _weight=table.clone())
    own = slice(dist.get_rank(), None, dist.get_world_size())
    ours = run(DistributedDataParallel(layer), layer, own, Ranks())
    return float((ours - expected).abs().max()), float(expected.abs().max())


def _optimized(make: Callable[[Any], torch.optim.Optimizer], *, partly: bool) -> Any:
    """Three steps of a sharded model against one process: how far they are apart, and the state."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    inputs, targets = data()
    alone, model = network(), network()
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer)
    if not partly:
        fully_shard(model)
    ours, theirs = make(model.parameters()), make(alone.parameters())
    for _ in range(3):
        for net, optimizer in ((model, ours), (alone, theirs)):
            optimizer.zero_grad()
            loss(net(inputs), targets).backward()
            optimizer.step()
    far = 0.0
    for one, other in zip(model.parameters(), alone.parameters(), strict=True):
        whole = one.full_tensor() if isinstance(one, DTensor) else one
        far = max(far, float((whole - other).detach().abs().max()))
    sums = [float(ours.state[p]["sum"]) for p in model.parameters()]
    expected = [float(theirs.state[p]["sum"]) for p in alone.parameters()]
    return {"far": far, "sums": sums, "expected": expected, "norm": float(ours.grad_sq_norm)}


def adagrad_norm_of_shards() -> Any:
    return _optimized(lambda params: adk.AdagradNorm(params, lr=0.5), partly=False)


def adagrad_norm_of_shards_and_decay() -> Any:
    return _optimized(lambda p: adk.AdagradNorm(p, lr=0.5, weight_decay=0.1), partly=True)


def adagrad_norm_of_a_wrapper() -> Any:
    """Gradients are the same on every rank, and the norm needs nothing."""
    inputs, targets = data()
    alone, model = network(), DistributedDataParallel(network())
    own_inputs, own_targets = share()
    ours = adk.AdagradNorm(model.parameters(), lr=0.5)
    theirs = adk.AdagradNorm(alone.parameters(), lr=0.5)
    for _ in range(3):
        ours.zero_grad()
        theirs.zero_grad()
        weighted(model, own_inputs, own_targets).backward()
        loss(alone(inputs), targets).backward()
        ours.step()
        theirs.step()
    pairs = zip(model.module.parameters(), alone.parameters(), strict=True)
    return max(float((p - q).detach().abs().max()) for p, q in pairs)


def batches_of_a_sampler() -> Any:
    return list(adk.AdaptiveBatchSampler(22, 8, seed=5))


def _train(model: nn.Module, recorder: Any, sampler: Any, controller: Any) -> list[int]:
    """A growing batch; the sizes that were decided."""
    inputs, targets = data(400)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    sizes = []
    for batch in sampler:
        total = controller.batch_size
        optimizer.zero_grad()
        world = dist.get_world_size() if isinstance(model, DistributedDataParallel) else 1
        of = sampler.drawn - controller.samples_seen
        summed = F.cross_entropy(model(inputs[batch]), targets[batch], reduction="sum")
        (summed * world / of).backward()
        record = recorder.statistics()
        if world == 1:
            record = replace(record, agreement=None)  # one process of several, all alike
        optimizer.step()
        controller.update(record, None if record is not None else of)
        sizes.append(total)
    return sizes


def _controller() -> adk.BatchController:
    test = adk.NormTest(eta=0.9)
    return adk.BatchController(test, batch_size=8, max_batch_size=128, growth_cap=1.5)


def a_training_run() -> Any:
    """The same sizes, samples and parameters as in one process."""
    alone, controller = network(), _controller()
    sampler = adk.AdaptiveBatchSampler(400, controller, rank=0, world_size=1)
    with adk.layer_statistics(alone, ranks="local") as recorder:
        expected = _train(alone, recorder, sampler, controller)
    controller = _controller()
    sampler = adk.AdaptiveBatchSampler(400, controller)
    model = DistributedDataParallel(network())
    with adk.layer_statistics(model, when=controller.wants_test) as recorder:
        sizes = _train(model, recorder, sampler, controller)
    pairs = zip(model.module.parameters(), alone.parameters(), strict=True)
    far = max(float((p - q).abs().max()) for p, q in pairs)
    bits = [float(p.double().sum()).hex() for p in model.parameters()]
    return {"sizes": sizes, "expected": expected, "far": far, "bits": bits}


CASES = (
    embedding_mean,
    adagrad_norm_of_shards,
    adagrad_norm_of_shards_and_decay,
    adagrad_norm_of_a_wrapper,
    batches_of_a_sampler,
    a_training_run,
)
