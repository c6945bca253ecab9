"""Data that one rank cannot read, under every trainer; run by ``support.ranks``."""

from __future__ import annotations

from typing import Any
from unittest import mock

import hf_cases
import lightning_runs
import steps_cases
import torch.distributed as dist
from steps_cases import Accelerated, Fabricated
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset
from trainer_models import Text, gpt2

from adadagrad_kernels.distributed import shared_errors

#: Samples that a rank reads before.
READS = 20


def _is_last() -> bool:
    return dist.get_rank() == dist.get_world_size() - 1


class _Unreadable:
    """Beside a data set's own class: the last rank fails at one of its reads."""

    reads = 0

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        if self.reads > READS and _is_last():
            raise FileNotFoundError(f"sample {index} is gone")
        return super().__getitem__(index)  # type: ignore[misc]


class _Text(_Unreadable, Text):
    pass


class _Blobs(_Unreadable, lightning_runs.Blobs):
    pass


class _Tensors(_Unreadable, TensorDataset):
    pass


def of_huggingface() -> None:
    hf_cases.run(gpt2(), _Text(), hf_cases.arguments(hf_cases.folder()))


def of_lightning() -> None:
    with mock.patch.object(lightning_runs, "Blobs", _Blobs):
        lightning_runs.fit()


def _tensors() -> TensorDataset:
    return _Tensors(*steps_cases.data().tensors)


def of_accelerate() -> None:
    with mock.patch.object(steps_cases, "data", return_value=_tensors()):
        steps_cases.trains(Accelerated)


def of_fabric() -> None:
    with mock.patch.object(steps_cases, "data", return_value=_tensors()):
        steps_cases.trains(Fabricated)


def in_the_body_of_a_loop() -> None:
    """Which nothing but a context of the user's can see."""
    steps_cases.world()
    loop = Accelerated()
    with shared_errors():
        for step in loop.steps:
            for inputs, targets, _ in step:
                if (
                    loop.steps.controller.steps == 2
                    and dist.get_rank() == dist.get_world_size() - 1
                ):
                    raise FileNotFoundError("sample 7 is gone")
                step.backward(cross_entropy(loop.model(inputs), targets))
            loop.optimizer.step()
            loop.optimizer.zero_grad()


CASES = (of_huggingface, of_lightning, of_accelerate, of_fabric, in_the_body_of_a_loop)
#: Imported before the ranks are forked.
SHARED = ("accelerate", "lightning.pytorch", "lightning.fabric")
