"""Every rank cuts its share into equally many parts."""

from __future__ import annotations

import math

import pytest

from adadagrad_kernels.distributed import micro_batch_cuts


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("micro", [1, 2, 5, 64])
@pytest.mark.parametrize("total", [4, 5, 17, 26, 64])
def test_parts_are_equally_many_and_small_enough(world: int, micro: int, total: int) -> None:
    counts = set()
    for rank in range(world):
        share = len(range(rank, total, world))
        cuts = micro_batch_cuts(share, total, world, micro)
        sizes = [part.stop - part.start for part in cuts]
        assert [i for part in cuts for i in range(share)[part]] == list(range(share))
        assert max(sizes) <= micro
        assert max(sizes) - min(sizes) <= 1
        counts.add(len(cuts))
    assert counts == {math.ceil(math.ceil(total / world) / micro)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 17, 2, 4), "share is 10; accepted is 8 or 9 of 17 samples on 2 ranks"),
        ((-1, 4, 2, 4), "share must be an integer of at least 0"),
        ((4, 0, 2, 4), "total must be an integer of at least 1"),
        ((4, 8, 0, 4), "ranks must be an integer of at least 1"),
        ((4, 8, 2, 0), "micro must be an integer of at least 1"),
    ],
)
def test_bad_numbers_say_what_is_accepted(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        micro_batch_cuts(*arguments)
