"""Right kernels give numpy's numbers, the same bits in every order, and nothing is found."""

from __future__ import annotations

import time

import numpy as np
import pytest
from ladder_arrays import ORDERS, aligned, call, filled

from gpu_ladder.emulated import Emulated, load


def test_sum_in_two_stages(emulated: Emulated) -> None:
    values = filled(np.random.default_rng(0).standard_normal(30_007).astype(np.float32))
    bits = set()
    for order in ORDERS:
        emulated.set_schedule(*order)
        partials, total = aligned(24), aligned(1)
        assert (
            call(emulated, "sum", values, values.size, partials, 24, total, unwritten=(2, 4)) == 0
        )
        assert total[0] == pytest.approx(values.sum(dtype=np.float64), abs=1e-3)
        bits.add((partials.tobytes(), total.tobytes()))
    assert len(bits) == 1
    assert emulated.findings() == []


def test_sum_by_the_block_that_finishes_last(emulated: Emulated) -> None:
    values = filled(np.arange(1000, dtype=np.float32))
    bits = set()
    for order in ORDERS:
        emulated.set_schedule(*order)
        partials, finished, total = aligned(7), aligned(1, np.uint32), aligned(1)
        args = (values, values.size, partials, finished, total, 7, 1)
        assert call(emulated, "sum_by_last_block", *args, unwritten=(2, 4)) == 0
        assert total[0] == values.sum()
        assert finished[0] == 0
        bits.add(partials.tobytes())
    assert len(bits) == 1
    assert emulated.findings() == []


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (33, 31), (64, 96), (70, 45)])
def test_transpose_through_shared_memory(emulated: Emulated, rows: int, columns: int) -> None:
    values = filled(np.arange(rows * columns, dtype=np.float32))
    expected = values.reshape(rows, columns).T.ravel()
    for order in ORDERS:
        emulated.set_schedule(*order)
        out = aligned(values.size)
        assert call(emulated, "transpose", values, out, rows, columns, 1, unwritten=(1,)) == 0
        np.testing.assert_array_equal(out, expected)
    assert emulated.findings() == []


@pytest.mark.parametrize("threads", [1, 32, 48, 1024])
def test_dynamic_shared_memory_and_vectors(emulated: Emulated, threads: int) -> None:
    blocks = 3
    values = filled(np.arange(blocks * threads * 4, dtype=np.float32))
    expected = values.reshape(blocks, threads, 4)[:, ::-1].ravel()
    for order in ORDERS:
        emulated.set_schedule(*order)
        out = aligned(values.size)
        args = (values, out, blocks, threads, threads * 16)
        assert call(emulated, "reverse_parts", *args, unwritten=(1,)) == 0
        np.testing.assert_array_equal(out, expected)
    assert emulated.findings() == []


@pytest.mark.parametrize("count", [1, 3, 4, 511, 512, 1027])
def test_vectors_with_a_tail(emulated: Emulated, count: int) -> None:
    memory = filled(np.arange(count + 8, dtype=np.float32))
    values = memory[:count]
    expected = np.concatenate([values * np.float32(0.1), memory[count:]])
    assert call(emulated, "scale", values, count, 0.1) == 0
    np.testing.assert_array_equal(memory, expected)
    assert emulated.findings() == []


@pytest.mark.parametrize("width", [1, 2, 4, 8, 16, 32])
def test_shuffles(plain: Emulated, width: int) -> None:
    """Against PTX's definition of shfl.sync, where a lane without a source keeps its own value."""
    lanes = np.arange(32)
    values = filled(lanes * 1.5 + 0.25)
    first = lanes // width * width
    for amount in range(32):
        sources = {
            "idx": first + amount % width,
            "up": np.where(lanes - amount >= first, lanes - amount, lanes),
            "down": np.where(lanes + amount < first + width, lanes + amount, lanes),
            "bfly": np.where((lanes ^ amount) < first + width, lanes ^ amount, lanes),
        }
        out = aligned(128, np.float64)
        assert call(plain, "shuffles", values, out, amount, width) == 0
        for got, source in zip(out.reshape(4, 32), sources.values(), strict=True):
            np.testing.assert_array_equal(got, values[source])
    assert plain.findings() == []


def test_votes_and_reductions(emulated: Emulated) -> None:
    values = filled(np.random.default_rng(1).integers(-99, 100, 32).astype(np.int32))
    lanes = np.arange(32)

    def mask(chosen: np.ndarray) -> int:
        return int(sum(1 << int(lane) for lane in lanes[chosen]))

    odd = lanes % 2 == 1
    remainder = np.fmod(values, 4)
    expected = np.zeros((32, 10), np.uint32)
    expected[odd, 0] = mask(odd & (values > 0))
    expected[odd, 1] = (values[odd] > 90).any()
    expected[odd, 2] = (values[odd] > -100).all()
    expected[odd, 3] = values[odd].sum(dtype=np.int32).view(np.uint32)
    expected[~odd, 0] = mask(~odd & (values <= 0))
    expected[~odd, 1] = (values[~odd] > 100).any()
    expected[~odd, 2] = (values[~odd] > -50).all()
    expected[~odd, 3] = np.bitwise_xor.reduce(values[~odd].view(np.uint32))
    expected[:, 4] = values.min().view(np.uint32)
    expected[:, 5] = values.max().view(np.uint32)
    expected[:, 6] = values.view(np.uint32).min()
    expected[:, 7] = [mask(remainder == remainder[lane]) for lane in lanes]
    expected[:, 8] = (values > 0).sum()
    expected[:, 9] = 2 + (values > 99).any()
    for order in ORDERS:
        emulated.set_schedule(*order)
        out = aligned(320, np.uint32)
        assert call(emulated, "votes", values, out, unwritten=(1,)) == 0
        np.testing.assert_array_equal(out.reshape(32, 10), expected)
    assert emulated.findings() == []


def test_atomics(emulated: Emulated) -> None:
    values = filled(np.random.default_rng(2).integers(-1000, 1000, 700).astype(np.int32))
    expected = np.bincount(values & 63, minlength=64)
    for order in ORDERS:
        emulated.set_schedule(*order)
        bins, extremes = aligned(64, np.uint32), aligned(2, np.int32)
        assert call(emulated, "histogram", values, values.size, bins, extremes) == 0
        np.testing.assert_array_equal(bins, expected)
        np.testing.assert_array_equal(extremes, [values.min(), values.max()])
    assert emulated.findings() == []


def test_a_thread_may_wait_for_another_by_atomics(emulated: Emulated) -> None:
    for order in ORDERS:
        emulated.set_schedule(*order)
        flag, out = aligned(1, np.uint32), aligned(2)
        assert call(emulated, "handover", flag, out, unwritten=(1,)) == 0
        assert out[0] == 7
    assert emulated.findings() == []


def test_millions_of_threads_take_no_more_than_seconds(plain: Emulated) -> None:
    side = 1024  # 1,024 blocks of 1,024 threads, which all wait once
    values = filled(np.random.default_rng(3).standard_normal(side * side).astype(np.float32))
    out = aligned(values.size)
    start = time.process_time()
    assert call(plain, "transpose", values, out, side, side, 1) == 0
    assert time.process_time() - start < 10
    np.testing.assert_array_equal(out.reshape(side, side), values.reshape(side, side).T)


def test_flavours_of_one_module_stand_side_by_side() -> None:
    """Each its own code: a checked module that were the plain one would find nothing."""
    flavours = [load(flavour, "_C_cuda") for flavour in ("plain", "checked")]
    for emulated in flavours:
        assert emulated.module.__file__ == str(emulated.path)
    assert flavours[0].module is not flavours[1].module
    assert [emulated.checks_accesses for emulated in flavours] == [False, True]
