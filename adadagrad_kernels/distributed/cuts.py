"""Cuts every rank's share of a batch into the same number of micro-batches."""

from __future__ import annotations

import itertools

from adadagrad_kernels.ranks import Ranks
from adadagrad_kernels.settings import require_int


def micro_batch_cuts(share: int, total: int, ranks: Ranks | int, micro: int) -> list[slice]:
    """Cuts a rank's share of a batch into as many micro-batches as every other rank's.

    Wrappers wait for each other in every synchronised pass, so a rank with one more micro-batch
    would wait for ever. ``AdaptiveBatchSampler`` gives the ranks equally many samples, or one
    more; the number of micro-batches is that of the larger shares. Their sizes on a rank differ by
    at most one. If ``micro`` is 1, the last one of a smaller share is empty: run it too.

    Args:
        share: samples of this rank.
        total: of all ranks.
        ranks: who shares the batch, or how many.
        micro: the most samples of a micro-batch.

    Returns:
        Slices of the share, in order.

    Raises:
        ValueError: for numbers out of range, and for a share that is not the sampler's.

    Example:
        >>> from adadagrad_kernels.distributed import micro_batch_cuts
        >>> micro_batch_cuts(9, 17, 2, 4)
        [slice(0, 3, None), slice(3, 6, None), slice(6, 9, None)]
        >>> micro_batch_cuts(8, 17, 2, 4)
        [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """
    share = require_int("share", share, at_least=0)
    total = require_int("total", total, at_least=1)
    world = ranks.size if isinstance(ranks, Ranks) else require_int("ranks", ranks, at_least=1)
    micro = require_int("micro", micro, at_least=1)
    smallest, larger = divmod(total, world)
    largest = smallest + (larger > 0)
    if not smallest <= share <= largest:
        raise ValueError(
            f"share is {share}; accepted is {smallest} or {largest} of {total} samples on {world} "
            "ranks, as AdaptiveBatchSampler shares them out, so that all cut equally often"
        )
    count = -(-largest // micro)
    size, longer = divmod(share, count)
    sizes = [size + (place < longer) for place in range(count)]
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
