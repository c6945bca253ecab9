"""Sectors and passes over the banks of shared memory, by request."""

from __future__ import annotations

from model_driver import Model


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
