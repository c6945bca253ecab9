"""The order of the samples in one epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def epoch_permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Returns a permutation of range(size) that (seed, epoch) alone determine.

    It is the order of ``size`` random 64-bit numbers. They are Philox's raw stream, which NumPy
    guarantees for every version and machine; ``Generator.permutation`` and ``torch.randperm``
    promise no such thing. Seed and epoch are the two halves of the key, not a sum, so no two runs
    share a permutation.

    Example:
        >>> epoch_permutation(4, seed=0, epoch=0).tolist()
        [0, 2, 1, 3]
    """
    key = np.array([seed, epoch], dtype=np.uint64)
    return np.random.Philox(key=key).random_raw(size).argsort(kind="stable")
