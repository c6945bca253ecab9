"""What the traps are made of: samplers, data and modules that tell what was trained on.

And what is asked of each: the codes that the doctor finds, and what mends it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import adadagrad_kernels as adk
from adadagrad_kernels import integrations


class Indices(Dataset[int]):
    """Each sample is its index; those that were drawn are kept."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.drawn: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        self.drawn.append(index)
        return index


class Doubling:
    """Batches of 4 samples at first, of 8 in the end; ``batch_size`` says which."""

    def __init__(self) -> None:
        self.batch_size = 4
        self.drop_last = False

    def __iter__(self) -> Iterator[list[int]]:
        start = 0
        for self.batch_size in (4, 4, 4, 4, 8, 8, 8, 8):
            yield list(range(start, start + self.batch_size))
            start += self.batch_size

    def __len__(self) -> int:
        return 8


class HiddenDoubling(Doubling):
    """The same without the attribute."""

    def __init__(self) -> None:
        self.drop_last = False

    def __iter__(self) -> Iterator[list[int]]:
        yield from Doubling()


class OneHot(LightningModule):
    """Sample i has the gradient 1 in coordinate i alone."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(samples))
        self.stepped_along: list[dict[int, float]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.weight[batch].mean()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        gradient = self.weight.grad
        assert gradient is not None
        self.stepped_along.append({int(i): float(gradient[i]) for i in gradient.nonzero()})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def codes(*things: Any) -> list[str]:
    return [finding.code for finding in integrations.doctor(*things)]


def controller(size: int = 4, grows_at: int = 16) -> adk.BatchController:
    """Whose size doubles after some samples."""
    schedule = adk.megatron_schedule(f"0:{size} {grows_at}:{2 * size}")
    return adk.BatchController(schedule, max_batch_size=2 * size)


def adaptive_loader(data: Indices, **options: Any) -> DataLoader[int]:
    return DataLoader(data, batch_sampler=adk.AdaptiveBatchSampler(data, 4, **options))
