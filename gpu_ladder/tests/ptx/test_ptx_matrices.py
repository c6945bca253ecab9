"""Products of small matrices, and how they are loaded and stored: every form."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_blocks import execute, keep, texts
from ptx_numbers import decode, encode, to_float


@pytest.mark.parametrize("name", texts("mma"))
def test_mma(name: str) -> None:
    shape, sums, kind = name.split(".")[3], name.split(".")[6], name.split(".")[7]
    depth = int(shape.split("k")[1])
    packed = 1 if kind == "tf32" else 2
    b_count = depth // (4 * packed)
    counts = (2 * b_count, b_count, 4 if sums == "f32" else 2)
    source = np.random.default_rng(5)
    a, b = source.standard_normal((16, depth)), source.standard_normal((depth, 8))
    c = source.standard_normal((16, 8))

    def bits(value: float, to: str) -> int:
        single = decode(int(np.float32(value).view(np.uint32)), "f32")
        return int(encode(single, to)) << (13 if to == "tf32" else 0)

    a_bits = [[bits(a[i, k], kind) for k in range(depth)] for i in range(16)]
    b_bits = [[bits(b[k, j], kind) for j in range(8)] for k in range(depth)]
    c_bits = [[bits(c[i, j], sums) for j in range(8)] for i in range(16)]
    data = np.zeros((sum(counts), 32), np.uint32)
    for lane in range(32):
        group, place = lane // 4, lane % 4
        for register in range(counts[0]):
            row = group + 8 * (register % 2)
            for part in range(packed):
                k = (register // 2) * 4 * packed + place * packed + part
                data[register, lane] |= a_bits[row][k] << 16 * part
        for register in range(counts[1]):
            for part in range(packed):
                k = register * 4 * packed + place * packed + part
                data[counts[0] + register, lane] |= b_bits[k][group] << 16 * part
        for item in range(4):
            row, column = group + 8 * (item // 2), 2 * place + item % 2
            at = counts[0] + counts[1] + (item if sums == "f32" else item // 2)
            data[at, lane] |= c_bits[row][column] << (0 if sums == "f32" else 16 * (item % 2))
    total_count = sum(counts)
    lines = [f"ld.global.b32 %r{i}, [%q+{i * 128}];" for i in range(total_count)]

    def vector(first: int, count: int) -> str:
        return "{" + ", ".join(f"%r{first + i}" for i in range(count)) + "}"

    lines.append(
        f"{name} {vector(20, counts[2])}, {vector(0, counts[0])}, {vector(counts[0], counts[1])}, "
        f"{vector(counts[0] + counts[1], counts[2])};"
    )
    lines += [keep(f"%r{20 + i}", i) for i in range(counts[2])]
    out, _ = execute(lines, data, counts[2])

    def exact(value: int, of: str) -> float:
        return to_float(decode(value >> (13 if of == "tf32" else 0), of))

    for lane in range(32):
        for item in range(4):
            row, column = lane // 4 + 8 * (item // 2), 2 * (lane % 4) + item % 2
            expected = exact(c_bits[row][column], sums) + sum(
                exact(a_bits[row][k], kind) * exact(b_bits[k][column], kind) for k in range(depth)
            )
            word = int(out[item if sums == "f32" else item // 2, lane])
            word = word if sums == "f32" else word >> 16 * (item % 2) & 0xFFFF
            assert exact(word, sums) == pytest.approx(expected, rel=2e-3 if sums == "f16" else 1e-6)


def matrices(count: int, transposed: bool, data: np.ndarray) -> np.ndarray:
    """What each lane holds of `count` matrices of 8 rows of 8 elements."""
    tiles = data.reshape(count, 8, 8)
    result = np.zeros((count, 32), np.uint32)
    for index in range(count):
        tile = tiles[index].T if transposed else tiles[index]
        for lane in range(32):
            low, high = tile[lane // 4, 2 * (lane % 4)], tile[lane // 4, 2 * (lane % 4) + 1]
            result[index, lane] = int(low) | int(high) << 16
    return result


@pytest.mark.parametrize("name", texts("ldmatrix"))
def test_ldmatrix(name: str) -> None:
    count = int(name.split(".x")[1][0])
    elements = np.random.default_rng(1).integers(0, 1 << 16, count * 64).astype(np.uint16)
    generic = ".shared" not in name
    registers = ", ".join(f"%r{i}" for i in range(count))
    lines = [".shared .align 16 .b8 tile[512]; mov.u64 %w0, tile;"]
    for index in range(count):
        lines += [
            f"ld.global.b32 %r9, [%q+{index * 128}]; mul.wide.u32 %w1, %t, 4;",
            f"add.s64 %w2, %w0, %w1; st.shared.b32 [%w2+{index * 128}], %r9;",
        ]
    lines += [
        f"bar.sync 0; rem.u32 %r8, %t, {8 * count}; mul.wide.u32 %w1, %r8, 16;",
        "add.s64 %w2, %w0, %w1;",
        "cvta.shared.u64 %w2, %w2;" if generic else "",
        f"{name} {{{registers}}}, [%w2];",
        *(keep(f"%r{i}", i) for i in range(count)),
    ]
    out, _ = execute(lines, elements.view(np.uint32), count)
    assert (out == matrices(count, ".trans" in name, elements)).all()


@pytest.mark.parametrize("name", texts("stmatrix"))
def test_stmatrix(name: str) -> None:
    count = int(name.split(".x")[1][0])
    elements = np.random.default_rng(2).integers(0, 1 << 16, count * 64).astype(np.uint16)
    generic = ".shared" not in name
    held = matrices(count, ".trans" in name, elements)
    registers = ", ".join(f"%r{i}" for i in range(count))
    lines = [
        ".shared .align 16 .b8 tile[512]; mov.u64 %w0, tile;",
        *(f"ld.global.b32 %r{i}, [%q+{i * 128}];" for i in range(count)),
        f"rem.u32 %r8, %t, {8 * count}; mul.wide.u32 %w1, %r8, 16; add.s64 %w2, %w0, %w1;",
        "cvta.shared.u64 %w2, %w2;" if generic else "",
        f"{name} [%w2], {{{registers}}}; bar.sync 0;",
        "mul.wide.u32 %w1, %t, 4; add.s64 %w2, %w0, %w1;",
    ]
    for index in range(count):
        lines += [f"ld.shared.b32 %r9, [%w2+{index * 128}];", keep("%r9", index)]
    out, _ = execute(lines, held, count)
    assert out.tobytes() == elements.tobytes()


def test_movmatrix() -> None:
    elements = np.random.default_rng(2).integers(0, 1 << 16, 64).astype(np.uint16)
    lines = ["ld.global.b32 %r0, [%q];", f"{texts('movmatrix')[0]} %r1, %r0;", keep("%r1", 0)]
    out, _ = execute(lines, matrices(1, False, elements), 1)
    assert (out == matrices(1, True, elements)).all()
