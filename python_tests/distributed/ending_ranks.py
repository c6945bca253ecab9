"""Ranks that end in the middle of a step by an error of their own code; run by ``support.ranks``.

Each case has processes and a group of its own, which the error breaks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from sharded_models import sharded, weighted
from small_models import loss, network, share
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset

import adadagrad_kernels as adk
from adadagrad_kernels.distributed import WorkerGradients, shared_errors

STEPS = 4
AT = 2


def _is_last() -> bool:
    return dist.get_rank() == dist.get_world_size() - 1


class _Samples(Dataset[Any]):
    """Of one of which the last rank has no file."""

    def __len__(self) -> int:
        return 8 * STEPS

    def __getitem__(self, index: int) -> Any:
        if _is_last() and index == 8 * AT:
            raise FileNotFoundError(f"no image number {index}")
        inputs, targets = share()
        return inputs[0], targets[0]


def a_data_set() -> None:
    model = DistributedDataParallel(network())
    with adk.layer_statistics(model) as recorder:
        for inputs, targets in DataLoader(_Samples(), batch_size=8):
            loss(model(inputs), targets).backward()
            recorder.statistics()
            model.zero_grad()


def a_data_set_and_its_loader_workers() -> None:
    model = DistributedDataParallel(network())
    loader = DataLoader(_Samples(), batch_size=8, num_workers=1)
    with adk.layer_statistics(model) as recorder:
        for inputs, targets in loader:
            loss(model(inputs), targets).backward()
            recorder.statistics()
            model.zero_grad()


def _raise_at(step: int) -> None:
    if _is_last() and step == AT:
        raise adk.DataFormatError("line 7 has four columns")


def between_micro_batches_of_shards() -> None:
    model = sharded(network())
    inputs, targets = share()
    with adk.layer_statistics(model) as recorder:
        for step in range(STEPS):
            model(inputs)
            _raise_at(step)
            weighted(model, inputs, targets, by=float(dist.get_world_size())).backward()
            recorder.statistics()
            model.zero_grad()


def losses_of_shards() -> None:
    model = sharded(network())
    inputs, targets = share()

    def losses(step: int) -> Tensor:
        outputs = model(inputs)
        _raise_at(step)
        return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")

    with adk.layer_statistics(model) as recorder:
        for step in range(STEPS):
            weighted(model, inputs, targets, by=float(dist.get_world_size())).backward()
            recorder.statistics(lambda step=step: losses(step))
            model.zero_grad()


def a_loop_of_another_source() -> None:
    model = DistributedDataParallel(network())
    source = WorkerGradients(model)
    inputs, targets = share()
    with shared_errors():
        for step in range(STEPS):
            _raise_at(step)
            with source.backward(len(inputs)):
                loss(model(inputs), targets).backward()
            source.result()
            model.zero_grad()


def contexts_in_each_other() -> None:
    with shared_errors():
        a_data_set()


def after_an_error_that_was_survived() -> None:
    """Which is not taken for the reason of a connection that breaks later."""
    model = DistributedDataParallel(network())
    with contextlib.suppress(KeyError), adk.layer_statistics(model):
        raise KeyError("survived")
    inputs, targets = share()
    with adk.layer_statistics(model) as recorder:
        loss(model(inputs), targets).backward()
        recorder.statistics()
        if _is_last():
            os._exit(0)  # killed: it has left no error
        model.zero_grad()
        loss(model(inputs), targets).backward()


CASES: tuple[Callable[[], None], ...] = (
    a_data_set,
    a_data_set_and_its_loader_workers,
    between_micro_batches_of_shards,
    losses_of_shards,
    a_loop_of_another_source,
    contexts_in_each_other,
    after_an_error_that_was_survived,
)
