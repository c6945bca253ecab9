"""What nvcc makes of small kernels: results in every schedule, findings, traffic."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from ptx_support import ARCHITECTURES, ORDERS, aligned, compiled, has

from gpu_ladder.ptx import Report

pytestmark = pytest.mark.skipif(not has("nvcc"), reason="nvcc is missing: see requirements")
architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


def launch(
    source: str,
    name: str,
    architecture: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: list[Any],
    order: str = "forward",
    **options: Any,
) -> Report:
    kernel = compiled(source, architecture).kernels[name]
    return kernel.launch(grid, block, arguments, order=order, seed=11, **options)


def clean(report: Report) -> Report:
    report.raise_on_findings()
    return report


@architectures
def test_row_sums(architecture: str) -> None:
    values = aligned(np.random.default_rng(0).standard_normal((13, 1000)), np.float32)
    results = []
    for order in ORDERS:
        sums = aligned(np.zeros(13, np.float32))
        report = clean(
            launch(
                "column_sums.cu",
                "row_sums",
                architecture,
                (4,),
                (32, 4),
                [values, sums, 13, 1000],
                order,
            )
        )
        results.append(sums.tobytes())
        np.testing.assert_allclose(sums, values.astype(np.float64).sum(1), atol=2e-5)
        assert report.global_loads.bytes == values.nbytes
        assert report.global_loads.efficiency == 1.0
    assert len(set(results)) == 1


@architectures
@pytest.mark.parametrize("kind", ["f32", "bf16", "f16"])
def test_column_sums(architecture: str, kind: str) -> None:
    values = np.random.default_rng(1).standard_normal((37, 100)).astype(np.float32)
    if kind == "bf16":
        stored = aligned((values.view(np.uint32) >> 16).astype(np.uint16))
        values = (stored.astype(np.uint32) << 16).view(np.float32)
    elif kind == "f16":
        stored = aligned(values.astype(np.float16))
        values = stored.astype(np.float32)
    else:
        stored = aligned(values)
    results = []
    for order in ORDERS:
        sums = aligned(np.zeros(100, np.float32))
        arguments = [stored, sums, ctypes.c_int(37), ctypes.c_int(100)]
        clean(
            launch(
                "column_sums.cu",
                f"column_sums_{kind}",
                architecture,
                (4,),
                (32, 8),
                arguments,
                order,
            )
        )
        results.append(sums.tobytes())
        np.testing.assert_allclose(sums, 1.5 * values.astype(np.float64).sum(0), atol=2e-5)
    assert len(set(results)) == 1


@architectures
def test_exact_float_operations(architecture: str) -> None:
    source = np.random.default_rng(2)
    values = aligned(source.uniform(0, 1e3, 100), np.float64)
    roots = aligned(np.zeros(100, np.float64))
    clean(
        launch("column_sums.cu", "double_roots", architecture, (1,), (128,), [values, roots, 100])
    )
    assert (roots == np.sqrt(values) / (1.0 + values * 3.0)).all()

    parameter, total, gradient = (aligned(source.random(100), np.float32) for _ in range(3))
    expected_total = (gradient.astype(np.float64) * gradient + total.astype(np.float64)).astype(
        np.float32
    )
    step = np.float32(0.1) * gradient / (np.sqrt(expected_total) + np.float32(1e-8))
    expected = parameter - step
    arguments = [parameter, total, gradient, 0.1, 1e-8, 100]
    clean(launch("column_sums.cu", "adagrad", architecture, (1,), (128,), arguments))
    assert (total == expected_total).all()
    assert (parameter == expected).all()


@architectures
def test_narrow_numbers_and_long_division(architecture: str) -> None:
    values = np.random.default_rng(3).standard_normal(100).astype(np.float32)
    values[:4] = [np.nan, np.inf, 1e30, 6e-8]
    brain, half = aligned(np.zeros(100, np.uint16)), aligned(np.zeros(100, np.uint16))
    quotient = aligned(np.zeros(100, np.uint64))
    arguments = [aligned(values), brain, half, quotient, 100]
    clean(launch("column_sums.cu", "narrow", architecture, (1,), (128,), arguments))
    bits = values.view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    assert brain[0] == 0x7FFF
    assert (brain[1:] == rounded[1:]).all()
    with np.errstate(over="ignore"):
        expected = values.astype(np.float16)
    assert half[0] == 0x7FFF
    assert (half[1:] == expected.view(np.uint16)[1:]).all()
    assert (quotient == (1 << 40) // (np.arange(100, dtype=np.uint64) + np.uint64(3))).all()


@architectures
@pytest.mark.parametrize("name", ["transpose_padded", "transpose_conflicts"])
def test_transposes(architecture: str, name: str) -> None:
    values = aligned(np.arange(64 * 64).reshape(64, 64), np.float32)
    for order in ORDERS:
        out = aligned(np.zeros((64, 64), np.float32))
        report = clean(
            launch(
                "transpose.cu", name, architecture, (2, 2), (32, 8), [values, out, 64, 64], order
            )
        )
        assert (out == values.T).all()
        assert report.global_stores.efficiency == 1.0
        # Without padding a column of the tile is one bank.
        ratio = report.shared.wavefronts / report.shared.ideal_wavefronts
        assert ratio == (1.0 if name == "transpose_padded" else 16.5)


@architectures
def test_dynamic_shared_memory(architecture: str) -> None:
    values = aligned(np.arange(256), np.int32)
    out = aligned(np.zeros(256, np.int32))
    options = {"shared_bytes": 512}
    clean(
        launch(
            "transpose.cu", "reverse_block", architecture, (2,), (128,), [values, out], **options
        )
    )
    assert (out.reshape(2, 128) == values.reshape(2, 128)[:, ::-1]).all()
    report = launch(
        "transpose.cu", "reverse_block", architecture, (2,), (128,), [values, out], shared_bytes=508
    )
    assert "out_of_bounds" in report.kinds


@architectures
@pytest.mark.parametrize("order", ORDERS)
def test_atomics(architecture: str, order: str) -> None:
    keys = aligned(np.random.default_rng(4).integers(0, 1000, 900), np.int32)
    counts, total = aligned(np.zeros(16, np.uint32)), aligned(np.zeros(1, np.float32))
    arguments = [keys, counts, total, 900]
    clean(launch("atomics.cu", "histogram", architecture, (8,), (128,), arguments, order))
    assert (counts == np.bincount(keys & 15, minlength=16)).all()
    assert total[0] == 8


@architectures
@pytest.mark.parametrize("order", ORDERS)
def test_last_block_sum(architecture: str, order: str) -> None:
    values = aligned(np.ones(5000), np.float32)
    for name, kinds in (("last_block_sum", set()), ("last_block_sum_unfenced", {"race"})):
        partial, result = aligned(np.zeros(16, np.float32)), aligned(np.zeros(1, np.float32))
        arguments = [values, partial, aligned(np.zeros(1, np.uint32)), result, 5000]
        report = launch("atomics.cu", name, architecture, (16,), (128,), arguments, order)
        assert report.kinds == kinds
        assert result[0] == 5000


@architectures
@pytest.mark.parametrize("order", ORDERS)
def test_lanes_that_wait_for_one_another(architecture: str, order: str) -> None:
    lock, counter = aligned(np.zeros(1, np.uint32)), aligned(np.zeros(1, np.uint32))
    clean(launch("atomics.cu", "lane_lock", architecture, (3,), (64,), [lock, counter], order))
    assert counter[0] == 192
    flag, out = aligned(np.zeros(1, np.uint32)), aligned(np.zeros(32, np.uint32))
    clean(launch("atomics.cu", "lane_handshake", architecture, (1,), (32,), [flag, out], order))
    assert out.tolist() == list(range(32))


def _collectives(lane: int) -> int:
    result = sum(1 << i for i in range(0, 32, 3)) ^ 1 << 20 ^ 1 << 21
    result += sum(1 << i for i in range(32) if i // 5 == lane // 5)
    result += sum(i * i for i in range(32)) + max(i ^ 21 for i in range(32))
    if lane < 16:
        result += 3 * (lane - 1 if lane else lane)
    result &= 0xFFFFFFFF
    lowest = (result & -result).bit_length()
    reverse = int(f"{lane:032b}"[::-1], 2)
    return (result + 32 + lowest + 32 - result.bit_length() + reverse) & 0xFFFFFFFF


@architectures
def test_collectives(architecture: str) -> None:
    out = aligned(np.zeros(32, np.uint32))
    clean(launch("atomics.cu", "collectives", architecture, (1,), (32,), [out]))
    assert out.tolist() == [_collectives(lane) for lane in range(32)]


@architectures
@pytest.mark.parametrize("order", ORDERS)
def test_local_arrays_and_calls(architecture: str, order: str) -> None:
    indices = aligned(np.random.default_rng(5).integers(0, 16, 20), np.int32)
    out = aligned(np.zeros(64, np.int32))
    arguments = [indices, out, 20]
    clean(launch("local_memory.cu", "local_array", architecture, (1,), (64,), arguments, order))
    for thread in range(64):
        scratch = [step * step + thread for step in range(16)]
        for step in range(20):
            scratch[int(indices[step]) & 15] += step
        total = 0
        for step in range(16):
            total = total * 3 + scratch[step ^ (int(indices[0]) & 15)]
        for _ in range(thread % 5):
            total = total * 1103515245 + 12345
        assert int(out[thread]) & 0xFFFFFFFF == total & 0xFFFFFFFF


@architectures
def test_constants_globals_and_structures(architecture: str) -> None:
    out = aligned(np.zeros(12, np.int32))
    clean(launch("local_memory.cu", "tables", architecture, (1,), (12,), [out]))
    weights, table = [3, 1, 4, 1], [10, 20, 30]
    assert out.tolist() == [weights[t & 3] * 100 + table[t % 3] for t in range(12)]

    class Settings(ctypes.Structure):
        _fields_ = (
            ("scale", ctypes.c_int),
            ("shift", ctypes.c_double),
            ("bias", ctypes.c_short * 3),
        )

    numbers = aligned(np.zeros(12, np.float64))
    settings = Settings(3, 0.5, (ctypes.c_short * 3)(1, -2, 3))
    clean(launch("local_memory.cu", "by_value", architecture, (1,), (12,), [settings, numbers]))
    assert numbers.tolist() == [3 * t + 0.5 + (1, -2, 3)[t % 3] for t in range(12)]

    # The same through void** args, as cudaLaunchKernel has them.
    kernel = compiled("local_memory.cu", architecture).kernels["by_value"]
    again = aligned(np.zeros(12, np.float64))
    address = ctypes.c_void_p(again.ctypes.data)
    pointers = (ctypes.c_void_p * 2)(ctypes.addressof(settings), ctypes.addressof(address))
    clean(kernel.launch_raw((1, 1, 1), (12, 1, 1), ctypes.addressof(pointers)))
    assert (again == numbers).all()


@architectures
def test_switch(architecture: str) -> None:
    values = aligned(np.arange(32) % 9, np.int32)
    out = aligned(np.zeros(32, np.int32))
    clean(launch("local_memory.cu", "switch_cases", architecture, (1,), (32,), [values, out]))
    v = values.tolist()
    cases = {0: 5, 1: 17 + v[0], 2: v[1] * 3, 3: 99 // (v[2] + 1), 4: 1, 5: v[3] % 7, 6: 0}
    assert out.tolist() == [cases.get(one, -1) for one in v]
