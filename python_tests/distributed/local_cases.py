"""Local SGD: ranks that step on their own and average, run on every rank by ``support.ranks``."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from small_models import data, loss, network, share
from torch import Tensor, nn
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.nn.parallel import DistributedDataParallel

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import LocalGradients

#: Local steps of a round, samples of a training run.
STEPS, BUDGET = 4, 800


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _drifted() -> nn.Module:
    """A model that has taken a step of its own on every rank."""
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.0 + 0.1 * dist.get_rank())
    return model


def _of_all(own: Any) -> list[Any]:
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def last_gradients() -> Any:
    """Unequal shares, against the formula on the gradients themselves."""
    model = _drifted()
    inputs, targets = share(23)
    loss(model(inputs), targets).backward()
    before = _gradient(model).clone()
    record = LocalGradients(model).statistics(len(inputs))
    sizes, rows = zip(*_of_all((len(inputs), before)), strict=True)
    counts, gradients = torch.tensor(sizes, dtype=torch.float64), torch.stack(rows)
    mean = counts @ gradients / counts.sum()
    far = (gradients - mean).square().sum(1)
    return {
        "samples": record.batch_size,
        "signal": (record.mean_sq_norm, float(mean.square().sum())),
        "variance": (record.variance_norm, float(counts @ far / (len(rows) - 1))),
        "untouched": torch.equal(before, _gradient(model)),
    }


def the_papers_size() -> Any:
    """T_k of a worker by arXiv 2406.13936, times the workers, with a scaled loss."""
    model, eta, scale = _drifted(), 0.7, 512.0
    inputs, targets = share(24)
    (loss(model(inputs), targets) * scale).backward()
    record = LocalGradients(model).statistics(len(inputs), grad_scale=scale)
    gradients = torch.stack(_of_all(_gradient(model) / scale))
    mean, workers = gradients.mean(0), len(gradients)
    spread = len(inputs) / (workers - 1) * (gradients - mean).square().sum()
    expected = float(spread / (workers * eta**2 * mean.square().sum()))
    return adk.NormTest(eta)(record).batch_size, workers * expected


def a_parameter_that_one_rank_does_not_use() -> Any:
    """It adds nothing to the mean, which all ranks know alike."""
    model = nn.ModuleList([nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)]).double()
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1.0)
    used = model if dist.get_rank() else model[:1]
    sum(layer(torch.ones(2, 3).double()).mean() for layer in used).backward()
    record = LocalGradients(model).statistics(2)
    world = dist.get_world_size()
    return record.mean_sq_norm, 3.0 * (1.0 + ((world - 1) / world) ** 2)


def _controller() -> adk.BatchController:
    return adk.BatchController(
        adk.NormTest(eta=0.9),
        batch_size=16,
        max_batch_size=128,
        round_to=dist.get_world_size(),
        test_interval=STEPS,
        growth_cap=2.0,
    )


def rounds_of_local_steps() -> Any:
    """With torch's averager, against one process that plays all ranks."""
    inputs, targets = data(BUDGET)
    model, controller = network(), _controller()
    optimizer = adk.Adagrad(model.parameters(), 0.05)
    source = LocalGradients(model)
    averager = PeriodicModelAverager(period=STEPS, warmup_steps=STEPS - 1)
    sizes, bits = [], []  # the latter behind each round
    for batch in adk.AdaptiveBatchSampler(BUDGET, controller, drop_last=True):
        total = controller.batch_size
        optimizer.zero_grad()
        loss(model(inputs[batch]), targets[batch]).backward()
        wanted = controller.wants_test(total)
        record = source.statistics(len(batch)) if wanted else None
        optimizer.step()
        averager.average_parameters(model.parameters())
        if wanted:
            bits.append([float(p.detach().sum()).hex() for p in model.parameters()])
        controller.update(record, total)
        sizes.append(total)
    expected, alone = _played(len(sizes))
    pairs = zip(model.parameters(), alone.parameters(), strict=True)
    return {
        "sizes": sizes,
        "expected": expected,
        "far": max(float((p - q).detach().abs().max()) for p, q in pairs),
        "bits": bits,
    }


def _played(steps: int) -> tuple[list[int], nn.Module]:
    """The same run with the ranks one after the other; the sizes, and this rank's model."""
    inputs, targets = data(BUDGET)
    world = dist.get_world_size()
    models = [network() for _ in range(world)]
    optimizers = [adk.Adagrad(model.parameters(), 0.05) for model in models]
    controller = _controller()
    batches = iter(adk.AdaptiveBatchSampler(BUDGET, controller, rank=0, world_size=1))
    sizes = []
    for step in range(1, steps + 1):
        batch = next(batches)
        for rank, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            optimizer.zero_grad()
            own = batch[rank::world]
            loss(model(inputs[own]), targets[own]).backward()
        gradients = torch.stack([_gradient(model) for model in models])
        for optimizer in optimizers:
            optimizer.step()
        record = None
        if step % STEPS == 0:
            signal = float(gradients.mean(0).square().sum())
            spread = float((gradients - gradients.mean(0)).square().sum())
            variance = spread * len(batch) / world / (world - 1)
            squares = (len(batch) - 1) * variance + len(batch) * signal
            record = adk.GradientStatistics(len(batch), signal, squares)
            with torch.no_grad():
                for of_all in zip(*(model.parameters() for model in models), strict=True):
                    mean = torch.stack(list(of_all)).mean(0)
                    for parameter in of_all:
                        parameter.copy_(mean)
        controller.update(record, len(batch))
        sizes.append(len(batch))
    return sizes, models[dist.get_rank()]


def no_gradient_on_the_first_rank() -> Any:
    model = network()
    inputs, targets = share()
    if dist.get_rank():
        loss(model(inputs), targets).backward()
    LocalGradients(model).statistics(len(inputs))


def a_layer_frozen_on_the_first_rank() -> Any:
    model = network()
    if dist.get_rank() == 0:
        model[0].requires_grad_(False)
    inputs, targets = share()
    loss(model(inputs), targets).backward()
    LocalGradients(model).statistics(len(inputs))


def a_wrapper_around_the_model() -> Any:
    LocalGradients(DistributedDataParallel(network()))


CASES = (
    last_gradients,
    the_papers_size,
    a_parameter_that_one_rank_does_not_use,
    rounds_of_local_steps,
    no_gradient_on_the_first_rank,
    a_layer_frozen_on_the_first_rank,
    a_wrapper_around_the_model,
)
