"""The run as several processes make it: DistributedDataParallel, a share of the batch on each."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from adadagrad_kernels.batching import AdaptiveBatchSampler, BatchController
from adadagrad_kernels.statistics import layer_statistics
from adadagrad_kernels.training.build import build_model, build_policy
from adadagrad_kernels.training.catalogue import build_optimizer
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data


def steps_of_workers(config: RunConfig, data: Data) -> Iterator[BatchController]:
    """Takes the steps of a run on every rank of the default process group, yields after each.

    The loop is that of docs/guide/distributed.md. It times steps: nothing is evaluated, logged or
    saved, and learning-rate rules, error bars and micro-batches of the configuration are left out.

    Args:
        config: of the run; its batches are those of all ranks together.
        data: of the run, whole on every rank.
    """
    torch.manual_seed(config.seed)
    model = DistributedDataParallel(build_model(config.model, data))
    optimizer = build_optimizer(
        config.optimizer, model.parameters(), lr=config.lr, **config.settings()
    )
    controller = BatchController(
        build_policy(config, len(data.train), model.module, optimizer),
        batch_size=config.batch_size,
        max_batch_size=config.max_batch,
        test_interval=config.test_interval,
        growth_cap=config.growth_cap,
        hysteresis=config.hysteresis,
        cooldown=config.cooldown,
        smoothing=config.smoothing,
    )
    sampler = AdaptiveBatchSampler(
        len(data.train), controller, seed=config.seed, total_samples=config.samples
    )
    return _steps(data, model, optimizer, controller, sampler)


def _steps(
    data: Data,
    model: nn.Module,
    optimizer: Optimizer,
    controller: BatchController,
    sampler: AdaptiveBatchSampler,
) -> Iterator[BatchController]:
    ranks = dist.get_world_size()
    with layer_statistics(model, when=controller.wants_test) as source:
        for indices in sampler:
            total = sampler.next_total(controller.samples_seen)
            inputs, targets = data.train.select(torch.tensor(indices))
            optimizer.zero_grad()
            loss = data.objective.loss(model(inputs), targets, reduction="sum") * (ranks / total)
            loss.backward()  # type: ignore[no-untyped-call]
            controller.update(source.statistics(), total)
            optimizer.step()
            yield controller
