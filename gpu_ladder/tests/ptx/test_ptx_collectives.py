"""Every form of the collectives of a warp."""

from __future__ import annotations

import random

import numpy as np
import pytest
from ptx_blocks import FULL, execute, keep, texts, words


@pytest.mark.parametrize("name", texts("shfl"))
def test_shfl(name: str) -> None:
    data = words(32)
    cases = [
        (b, c, mask)
        for b in (0, 1, 5, 16, 31)
        for c in (0x1F, 0, 0x181F, 0x1C1F, 0x1800, 0x100F)
        for mask in (FULL, 0x00FF00FF)
    ]
    lines = ["ld.global.b32 %r0, [%q];"]
    for index, (b, c, mask) in enumerate(cases):
        lines += [
            "mov.b32 %r1, 77; setp.ne.u32 %k0, 0, 0; shl.b32 %r3, 1, %lane;",
            f"and.b32 %r3, %r3, {mask};",
            f"setp.ne.u32 %k1, %r3, 0; @%k1 {name} %r1|%k0, %r0, {b}, {c}, {mask};",
            keep("%r1", 2 * index),
            keep("%k0", 2 * index + 1),
        ]
    out, _ = execute(lines, data, 2 * len(cases), clean=False)
    mode = name.split(".")[2]
    for index, (b, c, mask) in enumerate(cases):
        for lane in range(32):
            segment, clamp = c >> 8 & 31, c & 31
            last, first = (lane & segment) | (clamp & ~segment & 31), lane & segment
            source, valid = {
                "up": (lane - b, lane - b >= last),
                "down": (lane + b, lane + b <= last),
                "bfly": (lane ^ b, lane ^ b <= last),
                "idx": (first | b & ~segment & 31, first | b & ~segment & 31 <= last),
            }[mode]
            if mode == "bfly":
                valid = (lane ^ b) <= last
            if mode == "idx":
                valid = (first | (b & ~segment & 31)) <= last
            source = source if valid else lane
            if not mask >> lane & 1:
                assert (out[2 * index, lane], out[2 * index + 1, lane]) == (77, 0)
            elif mask >> source & 1:  # what an absent lane gives is undefined
                assert out[2 * index, lane] == data[source], (b, c, mask, lane)
                assert out[2 * index + 1, lane] == valid


def test_shfl_without_the_predicate() -> None:
    data = words(32)
    line = "ld.global.b32 %r0, [%q]; shfl.sync.bfly.b32 %r1, %r0, 3, 31, -1;"
    out, _ = execute([line, keep("%r1", 0)], data, 1)
    assert out[0].tolist() == [data[lane ^ 3] for lane in range(32)]


@pytest.mark.parametrize("name", texts("vote"))
@pytest.mark.parametrize("bits", [0, FULL, 0x00FF00FF, 0x0FF00FF0, 0xFFFFFFFE])
@pytest.mark.parametrize("negated", [False, True])
def test_vote(name: str, bits: int, negated: bool) -> None:
    mask = 0x00FFFF0F
    result = "%r1" if "ballot" in name else "%k1"
    lines = [
        f"mov.b32 %r1, 5; setp.eq.u32 %k1, 0, 0; shr.u32 %r0, {bits}, %lane; and.b32 %r0, %r0, 1;",
        f"setp.ne.u32 %k0, %r0, 0; shr.u32 %r2, {mask}, %lane; and.b32 %r2, %r2, 1;",
        "setp.ne.u32 %k2, %r2, 0;",
        f"@%k2 {name} {result}, {'!' if negated else ''}%k0, {mask};",
        keep(result, 0),
    ]
    out, _ = execute(lines, words(32), 1)
    seen = (~bits if negated else bits) & mask
    expected = {
        "all": int(seen == mask),
        "any": int(seen != 0),
        "uni": int(seen in (0, mask)),
        "ballot": seen,
    }[name.split(".")[2]]
    untouched = 5 if "ballot" in name else 1
    assert out[0].tolist() == [expected if mask >> i & 1 else untouched for i in range(32)]


@pytest.mark.parametrize("name", texts("match"))
@pytest.mark.parametrize("distinct", [1, 3, 32])
def test_match(name: str, distinct: int) -> None:
    data = [lane % distinct for lane in range(32)]
    wide = name.endswith("b64")
    value = "%w0" if wide else "%r0"
    result = "%r1|%k0" if "all" in name else "%r1"
    lines = [
        "ld.global.b32 %r0, [%q]; mov.b64 %w0, {%lane, %r0}; setp.ne.u32 %k0, 0, 0;",
        "mov.b64 %w0, {%r0, %r0};",
        f"{name} {result}, {value}, -1;",
        keep("%r1", 0),
        keep("%k0", 1),
    ]
    out, _ = execute(lines, data, 2)
    groups = [sum(1 << i for i in range(32) if data[i] == data[lane]) for lane in range(32)]
    if "all" in name:
        assert out[0].tolist() == [FULL if distinct == 1 else 0] * 32
        assert out[1].tolist() == [int(distinct == 1)] * 32
    else:
        assert out[0].tolist() == groups


@pytest.mark.parametrize("name", texts("redux"))
def test_redux(name: str) -> None:
    is_float = name.endswith("f32")
    source = random.Random(3)
    data = words(32, 4)
    if is_float:
        data = [int(np.float32(source.uniform(-9, 9)).view(np.uint32)) for _ in range(32)]
        data[7] = 0x7FC00000
    mask = 0x0FFFFFF0
    lines = [
        f"ld.global.b32 %r0, [%q]; mov.b32 %r1, 9; shr.u32 %r2, {mask}, %lane;",
        "and.b32 %r2, %r2, 1;",
        f"setp.ne.u32 %k2, %r2, 0; @%k2 {name} %r1, %r0, {mask};",
        keep("%r1", 0),
    ]
    out, _ = execute(lines, data, 1)
    members = [data[i] for i in range(32) if mask >> i & 1]
    operation = name.split(".")[2]
    if is_float:
        numbers = [np.uint32(one).view(np.float32) for one in members]
        numbers = [abs(one) for one in numbers] if ".abs" in name else numbers
        finite = [one for one in numbers if not np.isnan(one)]
        best = min(finite) if operation == "min" else max(finite)
        expected = 0x7FFFFFFF if ".NaN" in name else int(np.float32(best).view(np.uint32))
    elif operation in ("min", "max"):
        if name.endswith("s32"):
            members = [one - (1 << 32) if one >> 31 else one for one in members]
        expected = (min(members) if operation == "min" else max(members)) & FULL
    else:
        expected = members[0]
        for one in members[1:]:
            expected = {
                "add": (expected + one) & FULL,
                "and": expected & one,
                "or": expected | one,
                "xor": expected ^ one,
            }[operation]
    assert out[0].tolist() == [expected if mask >> i & 1 else 9 for i in range(32)]


def test_activemask_and_elect() -> None:
    lines = [
        "mov.b32 %r1, 0; mov.b32 %r2, 0; setp.ne.u32 %k0, 0, 0; setp.ge.u32 %k1, %lane, 12;",
        f"@%k1 {texts('activemask')[0]} %r1;",
        f"@%k1 {texts('elect')[0]} %r2|%k0, 0xfffff000;",
        keep("%r1", 0),
        keep("%r2", 1),
        keep("%k0", 2),
    ]
    out, _ = execute(lines, words(32), 3)
    inside = [lane >= 12 for lane in range(32)]
    assert out[0].tolist() == [0xFFFFF000 * one for one in inside]
    assert out[1].tolist() == [12 * one for one in inside]
    assert out[2].tolist() == [int(lane == 12) for lane in range(32)]
