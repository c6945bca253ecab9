"""Which accesses are ordered, by barriers, warps, and fences around atomics."""

from __future__ import annotations

import pytest
from model_driver import Model


@pytest.mark.parametrize("second", ["r", "w", "wa"])
@pytest.mark.parametrize("first", ["w", "wa", "r"])
def test_accesses_of_two_threads(model: Model, first: str, second: str) -> None:
    harmless = (first == second and first != "w") or (first == "r" and second == "r")
    model.do(first, 0, 0)
    model.do(second, 40, 0)
    assert set(model.found()) == (set() if harmless else {"race"})
    model.do(first, 0, 64)
    model.block_barrier()
    model.do(second, 40, 64)
    assert model.found() == []


def test_the_same_thread_is_always_ordered(model: Model) -> None:
    for what in ("w", "r", "wa", "w", "r"):
        model.do(what, 5, 0)
    assert model.found() == []


def test_barrier_of_a_block_orders_nothing_between_blocks(model: Model) -> None:
    model.do("w", 0, 0)
    model.block_barrier()
    model.end_block()
    model.begin_block(1)
    model.block_barrier()
    model.do("r", 0, 0)
    assert model.found() == ["race"]


def test_grids_are_ordered(model: Model) -> None:
    model.do("w", 0, 0)
    model.end_block()
    model.end_grid()
    model.start(1)
    model.do("r", 9, 0)
    assert model.found() == []


def test_synchronisation_of_some_lanes(model: Model) -> None:
    model.do("w", 0, 0)
    model.sync(0b0111)
    model.do("r", 1, 0)
    model.do("r", 2, 0)
    assert model.found() == []
    model.do("r", 3, 0)
    assert model.found() == ["race"]


def test_synchronisation_passes_on_what_lanes_know(model: Model) -> None:
    model.do("w", 0, 0)
    model.sync(0b0011)
    model.sync(0b0110)
    model.do("r", 2, 0)
    assert model.found() == []
    model.do("w", 0, 4)  # after the first synchronisation: nobody knows of it
    model.do("r", 2, 4)
    assert model.found() == ["race"]


def test_every_reader_must_be_before_a_writer(model: Model) -> None:
    for lane in range(32):
        model.do("r", lane, 0)
    model.sync(0x7FFFFFFF)
    model.do("w", 0, 0)
    assert model.found() == ["race"]  # lane 31 read it as well
    for thread in range(64):
        model.do("r", thread, 64)
    model.sync()
    model.do("w", 0, 64)
    assert model.found() == ["race"]  # and so did the other warp


def test_readers_of_earlier_ticks_are_remembered(model: Model) -> None:
    model.do("r", 33, 0)
    model.sync(warp=1)
    for _ in range(10):
        model.do("r", 0, 0)
        model.sync()
    model.do("w", 0, 0)
    assert model.found() == ["race"]


def publish(model: Model, thread: int, flag: int, *, fence: bool = True) -> None:
    if fence:
        model.fence(thread)
    model.do("wa", thread, flag, site=7)


def acquire(model: Model, thread: int, flag: int, *, fence: bool = True) -> None:
    model.do("wa", thread, flag, site=7)
    if fence:
        model.fence(thread)


@pytest.mark.parametrize(("release", "take"), [(True, True), (True, False), (False, True)])
def test_fences_around_atomics_order_blocks(model: Model, release: bool, take: bool) -> None:
    model.do("w", 3, 0)
    publish(model, 3, 512, fence=release)
    model.end_block()
    model.begin_block(1)
    acquire(model, 8, 512, fence=take)
    model.do("r", 8, 0)
    assert model.found() == ([] if release and take else ["race"])


def test_fence_publishes_what_came_before_it_alone(model: Model) -> None:
    model.fence(3)
    model.do("w", 3, 0)
    model.do("wa", 3, 512, site=7)
    model.end_block()
    model.begin_block(1)
    acquire(model, 8, 512)
    model.do("r", 8, 0)
    assert model.found() == ["race"]


@pytest.mark.parametrize("meet", ["barrier", "warp", "nowhere"])
def test_atomic_of_another_thread_after_the_fence(model: Model, meet: str) -> None:
    """All fence, then meet, and one of them sets the flag; and the reverse on the other side."""
    synchronise = {"barrier": model.block_barrier, "warp": model.sync, "nowhere": lambda: None}
    model.do("w", 3, 0)
    model.fence(3)
    synchronise[meet]()
    model.do("wa", 0, 512, site=7)
    model.end_block()
    model.begin_block(1)
    model.do("wa", 0, 512, site=7)
    synchronise[meet]()
    model.fence(9)
    model.do("r", 9, 0)
    assert model.found() == (["race"] if meet == "nowhere" else [])


def test_barrier_after_the_fence_publishes_no_more_than_the_fence(model: Model) -> None:
    model.fence(3)
    model.do("w", 3, 0)
    model.do("w", 40, 4)  # which does not fence at all
    model.block_barrier()
    model.do("wa", 0, 512, site=7)
    model.end_block()
    model.begin_block(1)
    acquire(model, 8, 512)
    model.do("r", 8, 0)
    assert model.found() == ["race"]
    model.do("r", 8, 4)
    assert model.found() == ["race"]


def test_another_atomic_orders_nothing(model: Model) -> None:
    model.do("w", 3, 0)
    publish(model, 3, 512)
    model.end_block()
    model.begin_block(1)
    acquire(model, 8, 516)
    model.do("r", 8, 0)
    assert model.found() == ["race"]


def test_barriers_and_warps_pass_on_what_was_published(model: Model) -> None:
    model.do("w", 40, 0)  # another thread's, before the barrier
    model.block_barrier()
    model.do("w", 3, 4)
    model.sync()
    publish(model, 1, 512)  # lane 1 knows of lane 3
    model.end_block()
    model.begin_block(1)
    acquire(model, 8, 512)
    model.sync()
    model.do("r", 9, 0)
    model.do("r", 9, 4)
    model.block_barrier()
    model.do("r", 63, 0)
    assert model.found() == []


def test_what_was_published_is_passed_on_from_block_to_block(model: Model) -> None:
    model.do("w", 3, 0)
    publish(model, 3, 512)
    model.end_block()
    model.begin_block(1)
    acquire(model, 8, 512)
    publish(model, 8, 600)
    model.end_block()
    model.begin_block(2)
    acquire(model, 0, 600)
    model.do("r", 0, 0)
    assert model.found() == []


def test_atomic_store_ends_what_was_published_before(model: Model) -> None:
    model.do("w", 3, 0)
    publish(model, 3, 512)
    model.end_block()
    model.begin_block(1)
    model.do("wab", 8, 512, site=8)
    model.end_block()
    model.begin_block(2)
    acquire(model, 0, 512)
    model.do("r", 0, 0)
    assert model.found() == ["race"]


def test_same_value_by_several_threads_is_no_race(model: Model) -> None:
    for thread in range(3):
        model.do("w", thread, 0, value=7)
    for thread in range(3):
        model.do("r", thread, 0)  # every one of them wrote it
    assert model.found() == []
    model.do("r", 3, 0)
    assert model.found() == ["race"]
    model.do("w", 1, 64, value=1)
    model.do("w", 2, 64, value=2)
    assert model.found() == ["race"]


def test_lanes_that_write_one_address_together(model: Model) -> None:
    model.warp("w", [0] * 32, values=[9] * 32)
    assert model.found() == []
    model.warp("w", [64] * 32, values=[9] * 31 + [8])
    assert model.found() == ["race"]
