"""Functions of numbers against their definitions."""

from __future__ import annotations

import numpy as np
from ladder_arrays import aligned, call, filled

from gpu_ladder.emulated import Emulated

EDGES = [0, 1, 2, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00010000]


def pairs() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0).integers(0, 1 << 32, (2, 200), dtype=np.uint64)
    edges = np.array([(a, b) for a in EDGES for b in EDGES], np.uint64).T
    a, b = np.concatenate([edges, random], axis=1).astype(np.uint32)
    return filled(a), filled(b)


def signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value


def lowest_bit(value: int) -> int:
    return (value & -value).bit_length()


def integers(a: int, b: int) -> list[int]:
    wide = a << 32 | b
    return [
        a.bit_count(),
        wide.bit_count(),
        32 - a.bit_length(),
        64 - wide.bit_length(),
        lowest_bit(a),
        lowest_bit(wide),
        a * b >> 32,
        min(a, b),
        max(a, b),
        min(signed(a), signed(b)),
        max(signed(a), signed(b)),
        a ^ b,
    ]


def atomics(a: int, b: int) -> list[int]:
    return [
        a + b,
        a - b,
        b,
        min(a, b),
        max(a, b),
        a & b,
        a | b,
        a ^ b,
        0 if a >= b else a + 1,
        b if a == 0 or a > b else a - 1,
        5 if a == b else a,
        min(signed(a), signed(b)),
        a + b,
    ]


def words(rows: list[list[int]]) -> np.ndarray:
    return np.array([[value % (1 << 32) for value in row] for row in rows], np.uint32)


def test_integers(emulated: Emulated) -> None:
    a, b = pairs()
    out = aligned(a.size * 12, np.uint32)
    assert call(emulated, "integers", a, b, out, a.size, unwritten=(2,)) == 0
    expected = words([integers(int(x), int(y)) for x, y in zip(a, b, strict=True)])
    np.testing.assert_array_equal(out.reshape(-1, 12), expected)
    assert emulated.findings() == []


def test_atomics_one_by_one(emulated: Emulated) -> None:
    a, b = pairs()
    cells, old = aligned(a.size * 13, np.uint32), aligned(a.size * 13, np.uint32)
    assert call(emulated, "atomics", a, b, cells, old, a.size, unwritten=(2, 3)) == 0
    expected = words([atomics(int(x), int(y)) for x, y in zip(a, b, strict=True)])
    np.testing.assert_array_equal(cells.reshape(-1, 13), expected)
    np.testing.assert_array_equal(old.reshape(-1, 13), np.repeat(a[:, None], 13, axis=1))
    assert emulated.findings() == []


def test_floats(emulated: Emulated) -> None:
    rng = np.random.default_rng(1)
    special = np.array([0, 1, -1, 1e-45, 1e-38, 3e38, np.inf, np.nan], np.float32)
    a = np.concatenate([np.repeat(special, 8), rng.standard_normal(200).astype(np.float32)])
    b = np.concatenate([np.tile(special, 8), rng.standard_normal(200).astype(np.float32)])
    out = aligned(a.size * 9)
    assert call(emulated, "floats", filled(a), filled(b), out, a.size, unwritten=(2,)) == 0
    with np.errstate(all="ignore"):
        product = a * b
        lost = (a.astype(np.float64) * b - product).astype(np.float32)
        root = np.sqrt(np.abs(a))
        columns = [a + b, a - b, product, a / b, root, 1 / a, lost, np.fmin(a, b), np.fmax(a, b)]
    np.testing.assert_array_equal(out.reshape(-1, 9), np.stack(columns, axis=1))
    assert emulated.findings() == []
