"""Happens-before, bounds, initialisation and traffic, by the model's own functions."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ladder_arrays import aligned

from gpu_ladder.emulated import build

WHOLE = 0xFFFFFFFF


class Model:
    """One grid of blocks of 64 threads over a buffer of 8 KiB and 1 KiB of shared memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.model_new.restype = ctypes.c_void_p
        library.model_findings.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p(library.model_new())
        self.memory = aligned(8192, np.uint8)
        self.shared = aligned(1024, np.uint8)
        self.keep: list[Any] = []
        self.add_buffer(self.memory, initialised=True)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, f"model_{name}")
        return lambda *args: function(self.handle, *args)

    def add_buffer(self, memory: np.ndarray, *, initialised: bool) -> None:
        self.library.model_add_buffer(
            self.handle,
            b"memory",
            ctypes.c_uint64(memory.ctypes.data),
            ctypes.c_uint64(memory.size),
            int(initialised),
        )

    def start(self, block: int = 0) -> None:
        base = ctypes.c_uint64(self.shared.ctypes.data)
        self.library.model_begin_grid(self.handle, 4, 64, base, ctypes.c_uint64(1024))
        self.begin_block(block)

    def base(self, what: str) -> int:
        return int((self.shared if "s" in what else self.memory).ctypes.data)

    def do(self, what: str, thread: int, offset: int, size: int = 4, **how: Any) -> bool:
        """An access; `value` is what it writes, which is then performed."""
        site, value = how.get("site", 1), how.get("value")
        pointer = None
        if value is not None:
            data = np.full(1, value, f"u{size}")
            self.keep.append(data)
            pointer = ctypes.c_void_p(data.ctypes.data)
        address = self.base(what) + offset
        done = self.access(what.encode(), thread, ctypes.c_uint64(address), size, site, pointer)
        if done and value is not None:
            ctypes.memmove(address, pointer, size)
        return bool(done)

    def warp(self, what: str, offsets: list[int], size: int = 4, **how: Any) -> int:
        """The same by a warp; `values` are what its lanes write."""
        addresses = (ctypes.c_uint64 * 32)(*(self.base(what) + offset for offset in offsets))
        values = how.get("values")
        pointers = None
        if values is not None:
            data = np.array(values, f"u{size}")
            self.keep.append(data)
            pointers = (ctypes.c_void_p * 32)(*(data.ctypes.data + size * i for i in range(32)))
        mask = ctypes.c_uint(how.get("mask", WHOLE))
        lanes = self.access_warp(
            what.encode(), how.get("warp", 0), mask, addresses, size, how.get("site", 1), pointers
        )
        return int(lanes) & WHOLE

    def sync(self, mask: int = WHOLE, warp: int = 0) -> None:
        self.warp_sync(warp, ctypes.c_uint(mask))

    def found(self) -> list[str]:
        kinds = [line.split()[0] for line in self.findings().decode().splitlines()]
        self.clear_findings()
        return kinds

    def moved(self, site: int = 1) -> dict[str, int]:
        out = (ctypes.c_uint64 * 6)()
        assert self.traffic(site, out) == 1
        names = ("requests", "bytes", "sectors", "ideal_sectors", "wavefronts", "ideal_wavefronts")
        return dict(zip(names, out, strict=True))


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    return ctypes.CDLL(str(build("plain", "ladder_memory_model")))


@pytest.fixture
def model(library: ctypes.CDLL) -> Iterator[Model]:
    model = Model(library)
    model.start()
    yield model
    model.delete()


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


def test_bounds(model: Model) -> None:
    assert model.do("r", 0, 8188)
    assert not model.do("r", 0, 8189)
    assert not model.do("r", 0, 8192, site=2)
    assert not model.do("r", 0, -4, site=3)
    assert model.found() == ["out_of_bounds"] * 3
    assert not model.do("rs", 0, 1024)
    assert model.found() == ["out_of_bounds"]
    addresses = [4 * (2048 - 16 + lane) for lane in range(32)]
    assert model.warp("r", addresses) == 0x0000FFFF
    assert model.found() == ["out_of_bounds"]


def test_shared_accesses_must_be_to_shared_memory(model: Model) -> None:
    address = ctypes.c_uint64(model.memory.ctypes.data)
    assert model.access(b"rs", 0, address, 4, 1, None) == 0
    assert model.found() == ["out_of_bounds"]


def test_alignment(model: Model) -> None:
    for size in (2, 4, 8, 16):
        assert model.do("r", 0, size * 3, size)
    assert model.found() == []
    for site, size in enumerate((2, 4, 8, 16)):
        assert model.do("r", 0, size + size // 2, size, site=site)
    assert model.found() == ["misaligned"] * 4


def test_shared_memory_is_new_for_every_block(model: Model) -> None:
    model.do("ws", 0, 0)
    model.do("rs", 0, 0)
    assert model.found() == []
    model.end_block()
    model.begin_block(1)
    model.do("rs", 0, 0)
    assert model.found() == ["uninitialised"]


def test_what_a_kernel_wrote_stays_written(model: Model) -> None:
    model.add_buffer(model.memory, initialised=False)
    model.do("w", 0, 0, 16)
    model.do("r", 0, 8, 8)
    assert model.found() == []
    model.do("r", 0, 12, 8)
    assert model.found() == ["misaligned", "uninitialised"]
    model.end_block()
    model.end_grid()
    model.start()
    model.do("r", 1, 0, 16)
    assert model.found() == []
    model.do("wab", 2, 100)  # an atomic that does not read
    assert model.found() == []
    model.do("wa", 2, 104)
    assert model.found() == ["uninitialised"]


@pytest.mark.parametrize("small", [1, 2, 4, 8])
def test_neighbouring_bytes_are_apart(model: Model, small: int) -> None:
    """Wide accesses first, so that what is remembered of them has to be cut."""
    model.do("r", 0, 0, 16)
    model.block_barrier()
    for thread in range(16 // small):
        model.do("w", thread, thread * small, small)
    assert model.found() == []
    model.do("r", 40, 16 - small, small)
    assert model.found() == ["race"]
    model.do("w", 0, 4096 - small, small)
    model.do("r", 1, 4096, small)
    assert model.found() == []


def test_a_write_hits_every_reader_of_what_it_covers(model: Model) -> None:
    model.do("r", 1, 12)
    model.do("w", 0, 0, 16)
    assert model.found() == ["race"]


def test_sectors_of_a_request(model: Model) -> None:
    cases = {
        "adjacent": ([4 * lane for lane in range(32)], 4, 4, 4),
        "adjacent vectors": ([16 * lane for lane in range(32)], 16, 16, 16),
        "from within a sector": ([4 + 4 * lane for lane in range(32)], 4, 5, 4),
        "one address": ([64] * 32, 4, 1, 1),
        "strided": ([128 * lane for lane in range(32)], 4, 32, 4),
        "backwards": ([4 * (31 - lane) for lane in range(32)], 4, 4, 4),
        "across sectors": ([30] * 32, 4, 2, 1),
    }
    for site, (name, (offsets, size, sectors, ideal)) in enumerate(cases.items(), 10):
        model.warp("r", offsets, size, site=site)
        moved = model.moved(site)
        assert moved["requests"] == 1, name
        assert moved["bytes"] == 32 * size, name
        assert (moved["sectors"], moved["ideal_sectors"]) == (sectors, ideal), name


def test_wavefronts_of_a_request(model: Model) -> None:
    cases = {
        "adjacent": ([4 * lane for lane in range(32)], 4, 1, 1),
        "one address": ([4] * 32, 4, 1, 1),
        "every other word": ([8 * lane for lane in range(32)], 4, 2, 1),
        "a column of 32": ([(128 * lane) % 1024 for lane in range(32)], 4, 8, 1),
        "halves": ([2 * lane for lane in range(32)], 2, 1, 1),
        "doubles": ([8 * lane for lane in range(32)], 8, 2, 2),
        "vectors": ([16 * lane for lane in range(32)], 16, 4, 4),
    }
    for site, (name, (offsets, size, passes, ideal)) in enumerate(cases.items(), 10):
        model.warp("ws", offsets, size, site=site)
        moved = model.moved(site)
        assert (moved["wavefronts"], moved["ideal_wavefronts"]) == (passes, ideal), name
        assert moved["sectors"] == 0


def test_accesses_of_lanes_one_by_one_are_requests_in_their_order(model: Model) -> None:
    for lane in range(32):  # as a fiber runs: one lane goes through the whole loop
        for step in range(3):
            model.do("r", lane, 128 * step + 4 * lane)
    for lane in range(32, 42):  # part of a warp
        model.do("r", lane, 4 * lane)
    model.end_block()
    moved = model.moved()
    assert (moved["requests"], moved["sectors"]) == (4, 3 * 4 + 2)


def test_requests_as_the_caller_says(model: Model) -> None:
    for half in (range(16), range(16, 32)):
        model.begin_request()
        for lane in half:
            model.do("r", lane, 4 * lane)
        model.end_request()
    moved = model.moved()
    assert (moved["requests"], moved["sectors"]) == (2, 4)
