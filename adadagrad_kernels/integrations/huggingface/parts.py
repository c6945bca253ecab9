"""The micro-batches of a step, in the place of the Trainer's batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Parts(Mapping[str, Tensor]):
    """The micro-batches of a step of this rank.

    As a mapping it has the entries of all of them, flattened: the Trainer counts numbers in it.

    Attributes:
        inputs: of each micro-batch.
        sizes: their samples.
        total: samples of the step over all ranks.
    """

    inputs: list[Any]
    sizes: list[int]
    total: int

    def __getitem__(self, name: str) -> Tensor:
        return torch.cat([part[name].flatten() for part in self.inputs])

    def __iter__(self) -> Iterator[str]:
        return iter(self.inputs[0])

    def __len__(self) -> int:
        return len(self.inputs[0])


class Stream:
    """The micro-batches of a whole run: each epoch goes on where the one before has ended.

    Args:
        loader: of the run's micro-batches.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.dataset: Dataset[Any] = loader.dataset
        self._loader = loader
        self._batches: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._batches is None:
            self._batches = iter(self._loader)
        return self._batches

    def close(self) -> None:
        """End the loader's workers, who have drawn ahead."""
        self._batches = None


def rows(inputs: Mapping[str, Any], samples: int) -> Iterator[dict[str, Any]]:
    """The samples of a micro-batch, each as a batch of one.

    Raises:
        ValueError: for a tensor without a row for each of them.
    """
    for name, value in inputs.items():
        if isinstance(value, Tensor) and (value.dim() == 0 or len(value) != samples):
            raise ValueError(
                f"the input {name!r} of shape {tuple(value.shape)} has not one row for each of "
                f"{samples} samples, whose losses inner products need; use a criterion that reads "
                "norms alone, such as NormTest"
            )
    for row in range(samples):
        yield {
            name: value[row : row + 1] if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
