"""The order of the samples in one epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def epoch_permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns a permutation of range(size) that (seed, epoch) alone determine.

    It is the order of ``size`` random numbers. They are Philox's raw stream, which NumPy
    guarantees for every version and machine; ``Generator.permutation`` and ``torch.randperm``
    promise no such thing. Seed and epoch are the two halves of the key, not a sum, so no two runs
    share a permutation.

    Example:
        >>> epoch_permutation(4, seed=0, epoch=0).tolist()
        [0, 3, 2, 1]
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    # Each number carries its index in its low bits: sorting values is several times as fast as
    # argsort, and as they differ, every sorting algorithm gives the same order.
    index_bits = np.uint64((size - 1).bit_length())
    keys = np.random.Philox(key=key).random_raw(size) << index_bits
    keys |= np.arange(size, dtype=np.uint64)
    keys.sort()
    keys &= (np.uint64(1) << index_bits) - np.uint64(1)
    return keys.view(np.int64)
