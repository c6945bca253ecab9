"""Collectives, barriers, matrices, control flow and address instructions: every form, by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from gpu_ladder.ptx import Report
from gpu_ladder.ptx.instructions import ROWS
from gpu_ladder.ptx.table import Form
from ptx_numbers import decode, encode, to_float
from ptx_support import ORDERS, aligned, entry, ptx_module

FULL = 0xFFFFFFFF
SETUP = [
    ".reg .b32 %t, %lane, %r<32>; .reg .b64 %o, %q, %w<8>; .reg .pred %f, %k<4>;",
    "mov.u32 %t, %tid.x; mov.u32 %lane, %laneid; mul.wide.u32 %o, %t, 4; add.s64 %q, %p0, %o;",
    "add.s64 %o, %p1, %o;",
]


def forms(opcode: str, *, start: str = "") -> list[Form]:
    found = [form for row in ROWS if row.opcode == opcode for form in row.forms()]
    return [form for form in found if form.text.startswith(start)]


def texts(opcode: str, *, start: str = "") -> list[str]:
    return [form.text for form in forms(opcode, start=start)]


def execute(
    lines: Sequence[str],
    data: Sequence[int] | np.ndarray,
    results: int,
    threads: int = 32,
    order: str = "forward",
    clean: bool = True,
    declarations: str = "",
) -> tuple[np.ndarray, Report]:
    """Runs lines on one block: %q points to the thread's word of `data`, %o to its first result."""
    out = aligned(np.zeros((max(results, 1), threads), np.uint32))
    values = aligned(np.asarray(data, dtype=np.uint32))
    module = ptx_module(declarations + entry([*SETUP, *lines]))
    report = module.kernels["kernel"].launch((1,), (threads,), [values, out], order=order)
    if clean:
        assert report.findings == ()
        assert report.outcome == "finished"
    return out, report


def keep(register: str, index: int, threads: int = 32) -> str:
    place = f"[%o+{index * threads * 4}]"
    if register.startswith("%k"):
        return f"selp.u32 %r31, 1, 0, {register}; st.global.u32 {place}, %r31;"
    return f"st.global.b32 {place}, {register};"


def words(count: int, seed: int = 1) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(32) for _ in range(count)]


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
            f"mov.b32 %r1, 77; setp.ne.u32 %k0, 0, 0; shl.b32 %r3, 1, %lane; and.b32 %r3, %r3, {mask};",
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
        f"ld.global.b32 %r0, [%q]; mov.b32 %r1, 9; shr.u32 %r2, {mask}, %lane; and.b32 %r2, %r2, 1;",
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


@pytest.mark.parametrize("name", texts("bar") + texts("barrier"))
@pytest.mark.parametrize("order", ORDERS)
def test_barriers(name: str, order: str) -> None:
    if name == "bar.warp.sync":
        lines = [
            ".shared .b32 line[32]; mov.u64 %w0, line; mul.wide.u32 %w1, %t, 4; add.s64 %w2, %w0, %w1;",
            f"st.shared.u32 [%w2], %t; {name} -1; xor.b32 %r0, %t, 31; mul.wide.u32 %w1, %r0, 4;",
            "add.s64 %w2, %w0, %w1; ld.shared.u32 %r1, [%w2];",
            keep("%r1", 0),
        ]
        out, _ = execute(lines, words(32), 1, order=order)
        assert out[0].tolist() == [lane ^ 31 for lane in range(32)]
        return
    threads = 128
    counts = [form.row.arguments.split() for form in forms(name.split(".")[0], start=name)]
    with_count = any(len([a for a in one if a == "u32"]) > 1 for one in counts)
    for count in ("", ", 128") if with_count and "arrive" not in name else ("",):
        wait = f"{name} 3{count};"
        if ".red." in name:
            result = "%r1" if "popc" in name else "%k1"
            wait = f"setp.lt.u32 %k0, %t, 100; {name} {result}, 3{count}, %k0;"
        elif "arrive" in name:
            # Three warps only announce themselves; the fourth waits for them.
            full = name.replace("arrive", "sync")
            wait = f"setp.lt.u32 %k0, %t, 96; @%k0 bra ARRIVE; {full} 3, 128; bra.uni DONE;"
            wait += f"ARRIVE: {name} 3, 128; DONE:"
        lines = [
            ".shared .b32 line[128]; mov.u64 %w0, line; mul.wide.u32 %w1, %t, 4;",
            "add.s64 %w2, %w0, %w1; st.shared.u32 [%w2], %t; mov.b32 %r1, 3;",
            "setp.eq.u32 %k1, 0, 0;",
            wait,
            "sub.u32 %r0, 127, %t; mul.wide.u32 %w1, %r0, 4; add.s64 %w2, %w0, %w1; mov.b32 %r2, 0;",
            "setp.ge.u32 %k2, %t, 96;" if "arrive" in name else "setp.ge.u32 %k2, %t, 0;",
            "@%k2 ld.shared.u32 %r2, [%w2];",
            keep("%r2", 0, threads),
            keep("%r1", 1, threads),
            keep("%k1", 2, threads),
        ]
        out, _ = execute(lines, words(threads), 3, threads, order)
        waiting = range(96, 128) if "arrive" in name else range(128)
        assert [out[0, thread] for thread in waiting] == [127 - thread for thread in waiting]
        if ".popc" in name:
            assert set(out[1].tolist()) == {100}
        elif ".red." in name:
            assert set(out[2].tolist()) == {int(".or" in name)}


def test_control_flow() -> None:
    lines = [
        "mov.b32 %r1, 0; rem.u32 %r0, %t, 4;",
        "TABLE: .branchtargets A, B, C, D;",
        "setp.lt.u32 %k0, %t, 16;",
        "@%k0 brx.idx %r0, TABLE;",
        "brx.idx.uni 2, TABLE;",
        "A: add.u32 %r1, %r1, 100; bra.uni END;",
        "B: add.u32 %r1, %r1, 200; bra END;",
        "C: nanosleep.u32 20; add.u32 %r1, %r1, 300; bra END;",
        "D: add.u32 %r1, %r1, 1; setp.lt.u32 %k1, %r1, %t; @%k1 bra D;",
        "END: griddepcontrol.wait; griddepcontrol.launch_dependents;",
        keep("%r1", 0),
        "setp.eq.u32 %k0, %t, 5; @%k0 exit;",
        keep("%t", 1),
    ]
    out, _ = execute(lines, words(32), 2)
    chosen = {0: 100, 1: 200, 2: 300}
    expected = [chosen.get(t % 4, max(t, 1)) if t < 16 else 300 for t in range(32)]
    assert out[0].tolist() == expected
    assert out[1].tolist() == [0 if t == 5 else t for t in range(32)]


@pytest.mark.parametrize("call", texts("call"))
@pytest.mark.parametrize("leave", texts("ret"))
def test_calls(call: str, leave: str) -> None:
    function = (
        ".func (.param .b32 result) twice(.param .b32 value) {\n .reg .b32 %a; .reg .pred %even;\n"
        " ld.param.b32 %a, [value]; and.b32 %a, %a, 1; setp.eq.u32 %even, %a, 0;\n"
        " ld.param.b32 %a, [value]; shl.b32 %a, %a, 1; st.param.b32 [result], %a;\n"
        f" @%even {leave}; add.u32 %a, %a, 1; st.param.b32 [result], %a; {leave}; }}\n"
    )
    lines = [
        "setp.lt.u32 %k0, %t, 20; mov.b32 %r1, 7;",
        "{ .param .b32 argument; .param .b32 back; st.param.b32 [argument], %t;",
        f"@%k0 {call} (back), twice, (argument); @%k0 ld.param.b32 %r1, [back]; }}",
        keep("%r1", 0),
    ]
    out, _ = execute(lines, words(32), 1, declarations=function)
    assert out[0].tolist() == [2 * t + t % 2 if t < 20 else 7 for t in range(32)]


def test_trap() -> None:
    _, report = execute(["setp.eq.u32 %k0, %t, 3; @%k0 trap;"], words(32), 1, clean=False)
    assert report.outcome == "trapped"


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
    vector = lambda first, count: "{" + ", ".join(f"%r{first + i}" for i in range(count)) + "}"
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
        f"bar.sync 0; rem.u32 %r8, %t, {8 * count}; mul.wide.u32 %w1, %r8, 16; add.s64 %w2, %w0, %w1;",
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


@pytest.mark.parametrize("name", texts("cvta") + texts("isspacep") + texts("mapa"))
def test_addresses(name: str) -> None:
    lines = [
        ".shared .align 4 .b8 tile[16]; .local .align 4 .b8 stack[16]; mov.u64 %w0, tile;",
        "mov.u64 %w1, stack; cvta.shared.u64 %w2, %w0; cvta.local.u64 %w3, %w1;",
    ]
    space = name.replace("shared::cta", "shared").replace("::entry", "")
    space = next((s for s in ("global", "shared", "local", "const", "param") if s in space), "")
    if name.startswith("isspacep"):
        for index, address in enumerate(("%p1", "%w2", "%w3")):
            lines += [f"{name} %k0, {address};", keep("%k0", index)]
        out, _ = execute(lines, words(32), 3)
        expected = [int(space == one) for one in ("global", "shared", "local")]
        assert out[:, 0].tolist() == expected
        assert (out == out[:, :1]).all()
        return
    wide = name.endswith("u64")
    if name.startswith("mapa"):
        register = "%w2" if wide else "%r0"
        lines += ["cvt.u32.u64 %r0, %w2;", f"{name} {'%w4' if wide else '%r1'}, {register}, 0;"]
    else:
        # There and back again is where it began.
        inverse = (
            name.replace("cvta.to.", "cvta.")
            if ".to." in name
            else (name.replace("cvta.", "cvta.to."))
        )
        lines += ["cvt.u32.u64 %r0, %w2;"]
        source, middle, target = ("%w2", "%w5", "%w4") if wide else ("%r0", "%r5", "%r1")
        lines += [f"{name} {middle}, {source};", f"{inverse} {target}, {middle};"]
    if wide:
        lines += ["cvt.u32.u64 %r1, %w4; cvt.u32.u64 %r0, %w2;"]
    lines += ["sub.u32 %r2, %r1, %r0;", keep("%r2", 0)]
    out, _ = execute(lines, words(32), 1)
    assert not out.any()


def test_generic_shared_address_leads_to_shared_memory() -> None:
    lines = [
        ".shared .align 4 .b8 tile[128]; mov.u64 %w0, tile; mul.wide.u32 %w1, %t, 4;",
        "add.s64 %w2, %w0, %w1; st.shared.u32 [%w2], %t; cvta.shared.u64 %w3, %w2;",
        "ld.u32 %r0, [%w3]; cvta.to.shared.u64 %w4, %w3; sub.s64 %w5, %w4, %w2;",
        "cvt.u32.u64 %r1, %w5;",
        keep("%r0", 0),
        keep("%r1", 1),
    ]
    out, _ = execute(lines, words(32), 2)
    assert out[0].tolist() == list(range(32))
    assert not out[1].any()


COPIES = forms("cp", start="cp.async.ca") + forms("cp", start="cp.async.cg")


@pytest.mark.parametrize("form", COPIES, ids=lambda form: form.text)
def test_cp_async(form: Form) -> None:
    name = form.text
    data = words(4 * 32)
    policy = ", %w7" if "cache_hint" in name else ""
    shorter = "u32" in form.row.arguments
    lines = [
        ".shared .align 16 .b8 tile[512]; mov.u64 %w0, tile; mul.wide.u32 %w1, %t, 16;",
        "mov.b64 %w7, 0; add.s64 %w2, %w0, %w1; add.s64 %w3, %p0, %w1; mov.b32 %r0, 0xeeeeeeee;",
    ]
    stored = 0
    expected = []
    for size in (16,) if ".cg" in name else (4, 8, 16):
        for source in (size, size // 2, 0) if shorter else (size,):
            lines += [f"st.shared.b32 [%w2+{4 * i}], %r0;" for i in range(4)]
            read = f", {source}" if shorter else ""
            lines += [f"{name} [%w2], [%w3], {size}{read}{policy};", "cp.async.commit_group;"]
            # Not yet: only the wait brings it.
            lines += ["ld.shared.b32 %r1, [%w2];", keep("%r1", stored)]
            lines.append("cp.async.wait_all;" if source == 0 else "cp.async.wait_group 0;")
            for i in range(4):
                lines += [f"ld.shared.b32 %r1, [%w2+{4 * i}];", keep("%r1", stored + 1 + i)]
            expected.append((size, source))
            stored += 5
    out, _ = execute(lines, data, stored)
    raw = np.asarray(data, np.uint32).reshape(32, 4)
    for index, (size, source) in enumerate(expected):
        assert (out[5 * index] == 0xEEEEEEEE).all()
        got = out[5 * index + 1 : 5 * index + 5].T.copy()
        for lane in range(32):
            wanted = bytearray(b"\xee" * 16)
            wanted[:size] = raw[lane].tobytes()[:source].ljust(size, b"\0")
            assert got[lane].tobytes() == bytes(wanted)


def test_cp_async_groups_finish_in_order() -> None:
    lines = [
        ".shared .align 16 .b8 tile[512]; mov.u64 %w0, tile; mul.wide.u32 %w1, %t, 16;",
        "add.s64 %w2, %w0, %w1; add.s64 %w3, %p0, %w1; mov.b32 %r0, 0; st.shared.b32 [%w2], %r0;",
        "st.shared.b32 [%w2+4], %r0;",
        "cp.async.ca.shared.global [%w2], [%w3], 4; cp.async.commit_group;",
        "cp.async.ca.shared.global [%w2+4], [%w3+4], 4; cp.async.commit_group;",
        "cp.async.wait_group 1; ld.shared.b32 %r1, [%w2]; ld.shared.b32 %r2, [%w2+4];",
        keep("%r1", 0),
        keep("%r2", 1),
    ]
    data = words(128)
    out, _ = execute(lines, data, 2)
    assert out[0].tolist() == data[::4]
    assert not out[1].any()


HINTS = texts("prefetch") + texts("prefetchu") + texts("createpolicy")


@pytest.mark.parametrize("name", HINTS)
def test_hints_change_nothing(name: str) -> None:
    lines = [".local .align 4 .b8 stack[16]; mov.u64 %w1, stack;"]
    if name.startswith("createpolicy"):
        lines += [f"{name} %w0; {name} %w0, 0.5; ld.global.L2::cache_hint.b32 %r0, [%q], %w0;"]
    else:
        lines += [f"{name} [{'%w1' if 'local' in name else '%q'}]; ld.global.b32 %r0, [%q];"]
    data = words(32)
    out, _ = execute([*lines, keep("%r0", 0)], data, 1)
    assert out[0].tolist() == data


FENCES = texts("fence") + texts("membar")


@pytest.mark.parametrize("fence", [*FENCES, ""])
def test_fences_order_blocks(fence: str) -> None:
    """Each block writes its part and takes a ticket; the last one reads all parts."""
    stop = f"{fence};" if fence else ""
    text = entry(
        [
            ".reg .b32 %r<8>; .reg .b64 %w<4>; .reg .pred %k;",
            "mov.u32 %r0, %ctaid.x; mul.wide.u32 %w0, %r0, 4; add.s64 %w1, %p0, %w0;",
            f"st.global.u32 [%w1], %r0; {stop} atom.global.add.u32 %r1, [%p1], 1; {stop}",
            "mov.u32 %r2, %nctaid.x; add.u32 %r2, %r2, -1; setp.ne.u32 %k, %r1, %r2; @%k exit;",
            "ld.global.u32 %r3, [%p0]; ld.global.u32 %r4, [%p0+4]; ld.global.u32 %r5, [%p0+8];",
            "add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; st.global.u32 [%p1+4], %r3;",
        ]
    )
    kernel = ptx_module(text).kernels["kernel"]
    for order in ORDERS:
        parts, ticket = aligned(np.zeros(3, np.uint32)), aligned(np.zeros(2, np.uint32))
        report = kernel.launch((3,), (1,), [parts, ticket], order=order)
        one_way = fence.startswith(("fence.acquire", "fence.release"))
        if fence:
            assert one_way or report.kinds == set()
        else:
            assert report.kinds == {"race"}
        assert ticket.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("write", "read", "clean"),
    [("release", "acquire", True), ("relaxed", "relaxed", False), ("release", "relaxed", False)],
)
def test_message_passing(write: str, read: str, clean: bool) -> None:
    text = entry(
        [
            ".reg .b32 %r<8>; .reg .pred %k; mov.u32 %r0, %ctaid.x; setp.eq.u32 %k, %r0, 0;",
            f"@%k st.global.u32 [%p0], 42; @%k st.{write}.gpu.global.u32 [%p0+4], 1; @%k exit;",
            f"WAIT: ld.{read}.gpu.global.u32 %r1, [%p0+4]; setp.eq.u32 %k, %r1, 0; @%k bra WAIT;",
            "ld.global.u32 %r2, [%p0]; st.global.u32 [%p1], %r2;",
        ]
    )
    data, out = aligned(np.zeros(2, np.uint32)), aligned(np.zeros(1, np.uint32))
    report = ptx_module(text).kernels["kernel"].launch((2,), (1,), [data, out])
    assert out[0] == 42
    assert report.kinds == (set() if clean else {"race"})


# Opcodes whose forms all run in this file.
BY_HAND = frozenset(
    "shfl vote match redux activemask elect bar barrier bra brx call ret exit trap nanosleep "
    "griddepcontrol mma ldmatrix stmatrix movmatrix cvta isspacep mapa cp prefetch prefetchu "
    "createpolicy fence membar".split()
)
