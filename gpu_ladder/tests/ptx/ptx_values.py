"""Operands worth trying: the edges of each type, and random bits."""

from __future__ import annotations

import random
import struct

from gpu_ladder.ptx.table import TYPE_BITS

LANES = 128


def _floats(values: list[float], code: str) -> list[int]:
    whole = {"<f": "<I", "<d": "<Q", "<e": "<H"}[code]
    return [struct.unpack(whole, struct.pack(code, value))[0] for value in values]


_COMMON = [0.0, -0.0, 1.0, -1.0, 1.5, -2.5, 0.75, float("inf"), -float("inf"), 100.0]
_EDGES: dict[str, list[int]] = {
    "f32": [
        *_floats([*_COMMON, 2.0**31, -(2.0**31), 2.0**63, 65519.0, 255.5, -0.3, 3e-8], "<f"),
        *(0x7F800001, 0xFFC01234, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0x3F801000, 0x3F808000),
    ],
    "f64": [
        *_floats([*_COMMON, 2.0**31, -(2.0**63), 2.0**64, 65519.0, 1e300, 2**-149 * 1.5], "<d"),
        *(0x7FF0000000000001, 1, 0x800FFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF, 0x3FF0000010000000),
        *(0x3FF0020000000000, 0x3F0FFC0000000000, 0x47EFFFFFEFFFFFFF, 0x380FFFFFFFFFFFFF),
    ],
    "f16": [
        *_floats([*_COMMON, 2.5, 3.5, 255.5, -0.3], "<e"),
        *(0x7C01, 0xFE00, 1, 0x83FF, 0x0400, 0x7BFF, 0x3BFF),
    ],
    "bf16": [
        *(bits >> 16 for bits in _floats([*_COMMON, 2.5, 3.5, 2.0**31, -(2.0**63)], "<f")),
        *(0x7F81, 0xFFC0, 1, 0x807F, 0x0080, 0x7F7F, 0x3F7F),
    ],
}
_AMOUNTS = [0, 1, 5, 8, 15, 16, 31, 32, 33, 63, 64, 65, 200, 255, 256 + 7, 0xFFFFFFFF]


def edges(kind: str) -> list[int]:
    """The bits of the edge values of a type."""
    if kind == "pred":
        return [0, 1]
    if kind.endswith("x2"):
        one = edges(kind.removesuffix("x2"))
        bits = TYPE_BITS[kind] // 2
        return [low | high << bits for low, high in zip(one, reversed(one), strict=True)]
    if kind in _EDGES:
        return _EDGES[kind]
    bits = TYPE_BITS[kind]
    top = 1 << (bits - 1)
    values = [0, 1, 2, 3, 7, top - 1, top, top + 1, 2 * top - 1, 2 * top - 2]
    values += [0x55 * (2 * top - 1) // 0xFF, 127, 128, 255]
    return values + ([amount % (2 * top) for amount in _AMOUNTS] if bits == 32 else [])


def _random_bits(kind: str, source: random.Random) -> int:
    bits = TYPE_BITS[kind]
    if kind in _EDGES and source.random() < 0.7:
        # Numbers of ordinary size more often than any bits give.
        code = {"f32": "<f", "f64": "<d", "f16": "<e", "bf16": "<f"}[kind]
        value = source.uniform(-4, 4) * 2.0 ** source.randint(-8, 8)
        return _floats([value], code)[0] >> (16 if kind == "bf16" else 0)
    return source.getrandbits(bits)


def operand_values(kinds: tuple[str, ...], seed: int = 0) -> list[list[int]]:
    """For each operand its values in LANES lanes: pairs of edges first, then random bits."""
    source = random.Random(f"{kinds} {seed}")
    columns = []
    for index, kind in enumerate(kinds):
        values = edges(kind)
        column = []
        for lane in range(LANES):
            if len(kinds) == 1 and lane < len(values):
                column.append(values[lane])
            elif len(kinds) > 1 and lane < 64:
                step = (1, 1 + lane // len(values), 3)[min(index, 2)]
                column.append(values[(lane * step + index) % len(values)])
            elif lane < 96:
                column.append(source.choice(values))
            else:
                column.append(_random_bits(kind, source))
        columns.append(column)
    return columns
