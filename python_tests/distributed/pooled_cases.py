"""Sources over ranks against all samples at once: run on every rank by ``support.ranks``.

Where a case gives errors, they are those of the pooled record, relative to plain autograd's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from small_models import SAMPLES, Expected, data, loss, network, share
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import Ranks, WorkerGradients, pool


def _own_losses(model: nn.Module, inputs: Tensor, targets: Tensor) -> Callable[[], Tensor]:
    return lambda: F.cross_entropy(model(inputs), targets, reduction="none")


def weighted(model: nn.Module, inputs: Tensor, targets: Tensor, of: int = SAMPLES) -> Tensor:
    """What these samples are of the mean loss over all ranks; a sum, so that there may be none."""
    summed = F.cross_entropy(model(inputs), targets, reduction="sum")
    return summed * dist.get_world_size() / of


def told_of(record: adk.GradientStatistics, expected: Expected | None = None) -> dict[str, Any]:
    """Errors, and what must be the same bits on every rank."""
    expected = expected or Expected.of(network(), *data())
    scalars = (record.mean_sq_norm, record.sum_sq_norms, record.sum_sq_inner_products)
    bits = [record.batch_size, *(None if s is None else s.hex() for s in scalars), record.spread]
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
    expected: Expected | None = None,
) -> dict[str, Any]:
    inside = model.module if inside is None else inside
    with adk.layer_statistics(model, variance=True, ranks=ranks) as recorder:
        for _ in range(steps):
            model.zero_grad()
            (weighted(model, inputs, targets) * scale).backward()
            record = recorder.statistics(_own_losses(inside, inputs, targets), grad_scale=scale)
    return told_of(record, expected)


def plain() -> Any:
    return _measured(DistributedDataParallel(network()), *share())


def gradients_as_bucket_views() -> Any:
    return _measured(DistributedDataParallel(network(), gradient_as_bucket_view=True), *share())


def a_static_graph() -> Any:
    model = DistributedDataParallel(network(), static_graph=True)
    return _measured(model, *share(), steps=3)


def a_bucket_for_every_parameter() -> Any:
    return _measured(DistributedDataParallel(network(), bucket_cap_mb=1e-5), *share())


class _Branches(nn.Module):
    """A layer before the network that the first rank alone takes, and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()
        with torch.random.fork_rng():
            torch.manual_seed(4)
            self.before = nn.Linear(6, 6).double()
            self.spare = nn.Linear(6, 6).double()
        self.is_first = dist.get_rank() == 0

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(self.before(inputs) if self.is_first else inputs)
        return outputs


def unused_parameters() -> Any:
    model, (inputs, targets) = _Branches(), data()
    used = {name: p for name, p in model.named_parameters() if not name.startswith("spare")}
    rows = []
    for place in range(SAMPLES):
        model.is_first = place % dist.get_world_size() == 0
        model.zero_grad()
        loss(model(inputs[place : place + 1]), targets[place : place + 1]).backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in used.values()]
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    expected = Expected(torch.stack(rows), {name: p.shape for name, p in used.items()})
    model = _Branches()
    wrapped = DistributedDataParallel(model, find_unused_parameters=True)
    return _measured(wrapped, *share(), expected=expected)


def a_group_that_is_named() -> Any:
    return _measured(DistributedDataParallel(network()), *share(), ranks=dist.group.WORLD)


def the_module_with_its_ranks() -> Any:
    """Called through the wrapper, measured by what is inside."""
    model = DistributedDataParallel(network())
    inputs, targets = share()
    with adk.layer_statistics(model.module, ranks=Ranks()) as recorder:
        weighted(model, inputs, targets).backward()
        return told_of(recorder.statistics(_own_losses(model.module, inputs, targets)))


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
                    weighted(model, inputs[own], targets[own]).backward()
                start += size
            record = recorder.statistics(_own_losses(model.module, inputs, targets))
            assert record.batch_size == SAMPLES, step
    return told_of(record)


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
            weighted(model, inputs, targets).backward()
            record = recorder.statistics(_own_losses(model.module.inside, inputs, targets))
    expected = Expected.of(_Checkpointed(), *data())
    return told_of(record, expected)


def compiled_inside_of_the_wrapper() -> Any:
    model = network()
    wrapper = DistributedDataParallel(torch.compile(model, backend="eager"))
    return _measured(wrapper, *share(), inside=model)


def compiled_around_the_wrapper() -> Any:
    model = network()
    compiled = torch.compile(DistributedDataParallel(model), backend="eager")
    return _measured(compiled, *share(), inside=model)


def half_precision_with_a_scaler_in_a_wrapper() -> Any:
    """float16 under autocast, in a GradScaler's loop."""
    model = DistributedDataParallel(network().float())
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    inputs, targets = share()
    with adk.layer_statistics(model, variance=True) as recorder:
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                outputs = model(inputs.float())
            summed = F.cross_entropy(outputs.float(), targets, reduction="sum")
            scaler.scale(summed * dist.get_world_size() / SAMPLES).backward()
            record = recorder.statistics(grad_scale=scaler.get_scale())
            scaler.step(optimizer)
            scaler.update()
    assert scaler.get_scale() == 256.0
    return told_of(record)


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
        return told_of(recorder.statistics(_own_losses(model.module, inputs, targets)))


def workers_seen_beside_the_layers() -> Any:
    """Two sources of one step; hooks of one are none that change a gradient for the other."""
    model = DistributedDataParallel(network())
    inputs, targets = share()
    workers = WorkerGradients(model)
    with adk.layer_statistics(model) as recorder:
        value = weighted(model, inputs, targets)
        with workers.backward(len(inputs)):
            value.backward()
        told = told_of(recorder.statistics())
    told["errors"]["N of workers"] = abs(workers.result().mean_sq_norm / _norm() - 1.0)
    return told


def _norm() -> float:
    return float(Expected.of(network(), *data()).rows.mean(0).square().sum())


def gradients_cleared_after_the_forward_pass() -> Any:
    model = DistributedDataParallel(network())
    inputs, targets = share()
    with adk.layer_statistics(model) as recorder:
        for _ in range(2):
            value = weighted(model, inputs, targets)
            model.zero_grad()
            value.backward()
            record = recorder.statistics()
    return told_of(record)


def per_sample_gradients() -> Any:
    model = DistributedDataParallel(network())
    source = adk.PerSampleGradients(model, loss, inner_products=True, variance=True)
    record = source.backward(*share())
    alone = network()
    loss(alone(data()[0]), data()[1]).backward()
    pairs = zip(model.module.parameters(), alone.parameters(), strict=True)
    far = max(float((p.grad - q.grad).abs().max()) for p, q in pairs)
    told = told_of(record)
    told["errors"][".grad"] = far
    return told


def per_sample_gradients_of_a_bare_model() -> Any:
    source = adk.PerSampleGradients(network(), loss, inner_products=True, ranks=Ranks())
    source.chunk_size = 2
    return told_of(source.backward(*share()))


def records_that_are_pooled() -> Any:
    own = adk.PerSampleGradients(network(), loss, variance=True, ranks="local").backward(*share())
    return told_of(pool(own, Ranks()))


def _unequal() -> tuple[Tensor, Tensor]:
    """One sample on the first rank, the others in growing shares."""
    inputs, targets = data()
    world, rank = dist.get_world_size(), dist.get_rank()
    cuts = [0, *(1 + 2 * place * (place + 1) for place in range(world - 1)), SAMPLES]
    own = slice(cuts[rank], cuts[rank + 1])
    return inputs[own], targets[own]


def _pooled(share: tuple[Tensor, Tensor], products: Any) -> adk.GradientStatistics:
    """Of micro-batches of two, which each rank has merged."""
    source = adk.PerSampleGradients(network(), loss, ranks="local")
    accumulator = adk.StatisticsAccumulator()
    for inputs, targets in zip(share[0].split(2), share[1].split(2), strict=True):
        accumulator.add(source.backward(inputs, targets, scale=0.0))
    along = None if products is None else lambda mean: products(source, mean)
    return pool(accumulator.result(), Ranks(), inner_products=along)


def unequal_records_that_are_pooled_with_products() -> Any:
    own = _unequal()

    def products(source: adk.PerSampleGradients, mean: dict[str, Tensor]) -> Tensor:
        return source.directional_derivatives(*own, mean)

    return told_of(_pooled(own, products))


def records_that_are_pooled_have_no_error_bars() -> Any:
    try:
        _pooled(share(), None).noise_estimate  # noqa: B018
    except adk.MissingStatisticError as error:
        return str(error)


def pooled_products_on_one_rank_alone() -> Any:
    def products(source: adk.PerSampleGradients, mean: dict[str, Tensor]) -> Tensor:
        return source.directional_derivatives(*share(), mean)

    _pooled(share(), None if dist.get_rank() else products)


def pooled_products_of_too_few_samples() -> Any:
    def products(source: adk.PerSampleGradients, mean: dict[str, Tensor]) -> Tensor:
        return source.directional_derivatives(*share(), mean)[dist.get_rank() == 0 :]

    _pooled(share(), products)


#: Exact but for rounding, in every statistic.
EXACT = (
    plain,
    gradients_as_bucket_views,
    a_static_graph,
    a_bucket_for_every_parameter,
    unused_parameters,
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
    unequal_records_that_are_pooled_with_products,
)
CASES = (
    *EXACT,
    half_precision_with_a_scaler_in_a_wrapper,
    records_that_are_pooled_have_no_error_bars,
    pooled_products_on_one_rank_alone,
    pooled_products_of_too_few_samples,
)
