"""A loader without a length, whose batches have the size that a controller says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from adadagrad_kernels import ranks
from adadagrad_kernels.batching import AdaptiveBatchSampler

#: Arguments of a DataLoader that the sampler, or the place in the data, stands for.
_OURS = {
    "batch_size": "the controller says the size",
    "sampler": "the batches are drawn by an AdaptiveBatchSampler",
    "batch_sampler": "the batches are drawn by an AdaptiveBatchSampler",
    "drop_last": "no sample is dropped",
    "generator": "it is set from seed= and the place in the data",
}


class UnsizedLoader:
    """Batches of a data set, each rank's share; trainers plan with a length, so it has none.

    The DataLoader and its sampler are made with the first batch, by when the processes that train
    together are there. Every iteration begins behind the samples that were trained on.

    Args:
        dataset: with a length.
        sampler: makes the sampler.
        begin: puts the sampler at its place, and says after how many samples that is.
        seed: of the loader's own generator, from which workers get theirs.
        min_samples: that the sampler gives a rank at least.
        options: more arguments of ``DataLoader``, such as ``num_workers`` and ``collate_fn``.

    Raises:
        ValueError: for an option that is not the user's to set.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: Callable[[], AdaptiveBatchSampler],
        begin: Callable[[AdaptiveBatchSampler], int],
        *,
        seed: int,
        min_samples: int,
        options: Mapping[str, Any],
    ) -> None:
        for name in options.keys() & _OURS.keys():
            raise ValueError(f"{name}= has no meaning here, {_OURS[name]}; leave it out")
        self.dataset = dataset
        self.min_samples = min_samples
        # Not named sampler: Lightning would set its epoch, which after a resume is the one before.
        self.batches: AdaptiveBatchSampler | None = None
        self._make_sampler, self._begin = sampler, begin
        self._seed, self._options = seed, dict(options)
        # Of its own: each iterator of a loader draws a number, which would shift dropout.
        self._generator = torch.Generator()
        self._loader: DataLoader[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if self._loader is None or self.batches is None:
            self.batches = self._make_sampler()
            self._loader = DataLoader(
                self.dataset,
                batch_sampler=self.batches,
                generator=self._generator,
                **self._options,
            )
        consumed = self._begin(self.batches)
        self._generator.manual_seed((self._seed + consumed) % 2**63)
        yield from self._loader

    def __repr__(self) -> str:
        return f"UnsizedLoader({type(self.dataset).__name__}, {ranks.world_size()} ranks)"
