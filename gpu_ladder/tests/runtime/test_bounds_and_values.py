"""Bounds, alignment, what was written, and how bytes are told apart."""

from __future__ import annotations

import ctypes

import pytest
from model_driver import Model


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
