"""Sources over ranks against all samples at once: run on every rank by ``support.ranks``.

Where a case gives errors, they are those of the pooled record, relative to plain autograd's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from small_models import SAMPLES, Expected, data, loss, network, share
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks, WorkerGradients, micro_batch_cuts, pool


def _own_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(model(inputs), targets, reduction="none")


def _weighted(model: nn.Module, inputs: Tensor, targets: Tensor, of: int = SAMPLES) -> Tensor:
    """What these samples are of the mean loss over all ranks; a sum, so that there may be none."""
    summed = F.cross_entropy(model(inputs), targets, reduction="sum")
    return summed * dist.get_world_size() / of


def _told(record: adk.GradientStatistics, expected: Expected | None = None) -> dict[str, Any]:
    """Errors, and what must be the same bits on every rank."""
    expected = expected or Expected.of(network(), *data())
    scalars = (record.mean_sq_norm, record.sum_sq_norms, record.sum_sq_inner_products)
    bits = [record.batch_size, *(None if s is None else s.hex() for s in scalars)]
    for tensors in (record.variance, record.mean_gradient):
        if tensors is not None:
            bits += [float(tensor.double().sum()).hex() for tensor in tensors.values()]
    return {"errors": expected.errors(record), "bits": bits}


def _measured(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    *,
    ranks: Any = "auto",
    steps: int = 2,
    scale: float = 1.0,
    inside: nn.Module | None = None,
) -> dict[str, Any]:
    inside = model.module if inside is None else inside
    with adk.layer_statistics(model, variance=True, ranks=ranks) as recorder:
        for _ in range(steps):
            model.zero_grad()
            (_weighted(model, inputs, targets) * scale).backward()
            record = recorder.statistics(_own_losses(inside, inputs, targets), grad_scale=scale)
    return _told(record)


def plain() -> Any:
    return _measured(DistributedDataParallel(network()), *share())


def gradients_as_bucket_views() -> Any:
    return _measured(DistributedDataParallel(network(), gradient_as_bucket_view=True), *share())


def a_static_graph() -> Any:
    model = DistributedDataParallel(network(), static_graph=True)
    return _measured(model, *share(), steps=3)


def a_bucket_for_every_parameter() -> Any:
    return _measured(DistributedDataParallel(network(), bucket_cap_mb=1e-5), *share())


def a_group_that_is_named() -> Any:
    return _measured(DistributedDataParallel(network()), *share(), ranks=dist.group.WORLD)


def the_module_with_its_ranks() -> Any:
    """Called through the wrapper, measured by what is inside."""
    model = DistributedDataParallel(network())
    inputs, targets = share()
    with adk.layer_statistics(model.module, ranks=Ranks()) as recorder:
        _weighted(model, inputs, targets).backward()
        return _told(recorder.statistics(_own_losses(model.module, inputs, targets)))


def a_scaled_loss() -> Any:
    return _measured(DistributedDataParallel(network()), *share(), scale=1024.0)


def one_sample_on_the_first_rank() -> Any:
    inputs, targets = data()
    cuts = [0, *range(1, SAMPLES, -(-SAMPLES // (dist.get_world_size() - 1)))]
    cuts = [*cuts[: dist.get_world_size()], SAMPLES]
    own = slice(cuts[dist.get_rank()], cuts[dist.get_rank() + 1])
    return _measured(DistributedDataParallel(network()), inputs[own], targets[own])


def none_on_the_last_rank() -> Any:
    inputs, targets = data()
    others = dist.get_world_size() - 1
    own = slice(dist.get_rank(), SAMPLES, others) if dist.get_rank() < others else slice(0, 0)
    return _measured(DistributedDataParallel(network()), inputs[own], targets[own])


def _accumulated(sizes: Sequence[int], *, sync: bool) -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = share()
    with adk.layer_statistics(model, variance=True) as recorder:
        for step in range(2):
            model.zero_grad()
            start = 0
            for place, size in enumerate([*sizes, len(inputs) - sum(sizes)]):
                own = slice(start, start + size)
                waits = place < len(sizes) and not sync
                with model.no_sync() if waits else contextlib.nullcontext():
                    _weighted(model, inputs[own], targets[own]).backward()
                start += size
            record = recorder.statistics(_own_losses(model.module, inputs, targets))
            assert record.batch_size == SAMPLES, step
    return _told(record)


def micro_batches_without_sync() -> Any:
    return _accumulated([2, 1], sync=False)


def micro_batches_with_sync() -> Any:
    return _accumulated([2, 1], sync=True)


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside = network()

    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(self.inside, inputs, use_reentrant=False)


def activation_checkpointing() -> Any:
    model = DistributedDataParallel(_Checkpointed())
    inputs, targets = share()
    with adk.layer_statistics(model, variance=True) as recorder:
        for _ in range(2):
            model.zero_grad()
            _weighted(model, inputs, targets).backward()
            record = recorder.statistics(_own_losses(model.module.inside, inputs, targets))
    expected = Expected.of(_Checkpointed(), *data())
    return _told(record, expected)


def compiled_inside_of_the_wrapper() -> Any:
    model = network()
    wrapper = DistributedDataParallel(torch.compile(model, backend="eager"))
    return _measured(wrapper, *share(), inside=model)


def compiled_around_the_wrapper() -> Any:
    model = network()
    compiled = torch.compile(DistributedDataParallel(model), backend="eager")
    return _measured(compiled, *share(), inside=model)


def gradients_that_are_added_up() -> Any:
    """By a hook of the user's, which does not divide."""
    model = DistributedDataParallel(network())

    def add(_, bucket):  # torch compares annotations, if there are any, with the classes themselves
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    model.register_comm_hook(None, add)
    inputs, targets = share()
    with adk.layer_statistics(model, ranks=Ranks(gradient_divisor=1.0), variance=True) as recorder:
        (F.cross_entropy(model(inputs), targets, reduction="sum") / SAMPLES).backward()
        return _told(recorder.statistics(_own_losses(model.module, inputs, targets)))


def workers_seen_beside_the_layers() -> Any:
    """Two sources of one step; hooks of one are none that change a gradient for the other."""
    model = DistributedDataParallel(network())
    inputs, targets = share()
    workers = WorkerGradients(model)
    with adk.layer_statistics(model) as recorder:
        value = _weighted(model, inputs, targets)
        with workers.backward(len(inputs)):
            value.backward()
        told = _told(recorder.statistics())
    told["errors"]["N of workers"] = abs(workers.result().mean_sq_norm / _norm() - 1.0)
    return told


def _norm() -> float:
    return float(Expected.of(network(), *data()).rows.mean(0).square().sum())


def gradients_cleared_after_the_forward_pass() -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = share()
    with adk.layer_statistics(model) as recorder:
        for _ in range(2):
            value = _weighted(model, inputs, targets)
            model.zero_grad()
            value.backward()
            record = recorder.statistics()
    return _told(record)


def per_sample_gradients() -> Any:
    model = DistributedDataParallel(network())
    source = adk.PerSampleGradients(model, loss, inner_products=True, variance=True)
    record = source.backward(*share())
    alone = network()
    loss(alone(data()[0]), data()[1]).backward()
    pairs = zip(model.module.parameters(), alone.parameters(), strict=True)
    far = max(float((p.grad - q.grad).abs().max()) for p, q in pairs)
    told = _told(record)
    told["errors"][".grad"] = far
    return told


def per_sample_gradients_of_a_bare_model() -> Any:
    source = adk.PerSampleGradients(network(), loss, inner_products=True, ranks=Ranks())
    source.chunk_size = 2
    return _told(source.backward(*share()))


def records_that_are_pooled() -> Any:
    own = adk.PerSampleGradients(network(), loss, variance=True, ranks="local").backward(*share())
    return _told(pool(own, Ranks()))


def micro_batch_gradients() -> Any:
    """Against the formula, from the gradients of all micro-batches of all ranks."""
    model = DistributedDataParallel(network())
    source = adk.MicroBatchGradients(model)
    inputs, targets = share()
    cuts = micro_batch_cuts(len(inputs), SAMPLES, Ranks(), 2)
    for place, own in enumerate(cuts):
        last = place == len(cuts) - 1
        with (
            contextlib.nullcontext() if last else model.no_sync(),
            source.micro_batch(own.stop - own.start),
        ):
            _weighted(model, inputs[own], targets[own]).backward()
    record = source.result()
    world = dist.get_world_size()
    every_input, every_target = data()
    chunks = [
        (every_input[rank::world][own], every_target[rank::world][own])
        for rank in range(world)
        for own in cuts
    ]
    return {"estimate": record.variance_norm, "direct": _between(chunks), "size": record.batch_size}


def _between(chunks: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The estimate from the chunks' mean gradients themselves."""
    rows = []
    for inputs, targets in chunks:
        model = network()
        loss(model(inputs), targets).backward()
        rows.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    sizes = torch.tensor([float(len(inputs)) for inputs, _ in chunks], dtype=torch.float64)
    gradients = torch.stack(rows)
    mean = (sizes[:, None] * gradients).sum(0) / sizes.sum()
    far = (gradients - mean).square().sum(1)
    return float((sizes * far).sum() / (len(chunks) - 1))


def worker_gradients() -> Any:
    """Unequal shares, each of two micro-batches."""
    model = DistributedDataParallel(network())
    inputs, targets = data(SAMPLES + 1)
    world, rank = dist.get_world_size(), dist.get_rank()
    own_inputs, own_targets = inputs[rank::world], targets[rank::world]
    source = WorkerGradients(model)
    with model.no_sync(), source.backward(samples=2):
        _weighted(model, own_inputs[:2], own_targets[:2], len(inputs)).backward()
    with source.backward(samples=len(own_inputs) - 2):
        _weighted(model, own_inputs[2:], own_targets[2:], len(inputs)).backward()
    record = source.result()
    chunks = [(inputs[r::world], targets[r::world]) for r in range(world)]
    return {"estimate": record.variance_norm, "direct": _between(chunks), "size": record.batch_size}


def halves_of_two_ranks() -> Any:
    """Of two of them alone; more give no halves."""
    model = DistributedDataParallel(network())
    source = WorkerGradients(model)
    inputs, targets = share()
    with source.backward(samples=len(inputs)):
        _weighted(model, inputs, targets).backward()
    ours = source.result().halves_cosine
    rows = []
    for rank in range(2):
        alone = network()
        loss(alone(data()[0][rank::2]), data()[1][rank::2]).backward()
        rows.append(torch.cat([p.grad.flatten() for p in alone.parameters()]))
    return ours, float(F.cosine_similarity(rows[0], rows[1], dim=0))


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
        _weighted(model, own_inputs, own_targets).backward()
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


#: Exact but for rounding, in every statistic.
EXACT = (
    plain,
    gradients_as_bucket_views,
    a_static_graph,
    a_bucket_for_every_parameter,
    a_group_that_is_named,
    the_module_with_its_ranks,
    a_scaled_loss,
    one_sample_on_the_first_rank,
    none_on_the_last_rank,
    micro_batches_without_sync,
    micro_batches_with_sync,
    activation_checkpointing,
    compiled_inside_of_the_wrapper,
    compiled_around_the_wrapper,
    gradients_that_are_added_up,
    workers_seen_beside_the_layers,
    gradients_cleared_after_the_forward_pass,
    per_sample_gradients,
    per_sample_gradients_of_a_bare_model,
    records_that_are_pooled,
)
CASES = (
    *EXACT,
    micro_batch_gradients,
    worker_gradients,
    halves_of_two_ranks,
    embedding_mean,
    adagrad_norm_of_shards,
    adagrad_norm_of_shards_and_decay,
    adagrad_norm_of_a_wrapper,
    batches_of_a_sampler,
    a_training_run,
)
