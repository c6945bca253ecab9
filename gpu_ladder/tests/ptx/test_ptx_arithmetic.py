"""Every form of every arithmetic instruction in the table, against PTX's definition of it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from ptx_all_definitions import DEFINITIONS
from ptx_definitions import Near
from ptx_numbers import FORMATS, NAN, decode, to_float
from ptx_specimens import Specimen, declarations, specimen
from ptx_support import aligned, entry, ptx_module
from ptx_values import LANES, operand_values

from gpu_ladder.ptx.instructions import ROWS

SENTINEL = 0x5A5A5A5A5A5A5A5A
LOOKUPS = (0, 0x80, 0x96, 0xE8, 0xC0, 0x3C, 0xFE, 0xFF)
# The second copy of each instruction runs in these lanes only.
PARTIAL = np.array([(lane * 7 + lane // 32) % 3 == 0 for lane in range(LANES)], dtype=np.uint32)


def variants(opcode: str) -> Iterator[tuple[Specimen, int]]:
    """Each form, negated and with wider registers where it can be, and with several immediates."""
    for row in ROWS:
        if row.opcode != opcode:
            continue
        for form in row.forms():
            for immediate in LOOKUPS if opcode == "lop3" else (0,):
                yield specimen(form, (immediate,)), immediate
            if any(operand.negatable for operand in row.operands):
                yield specimen(form, negate=True), 0
            if any(operand.wider for operand in row.operands):
                yield specimen(form, wide=True), 0


def _group(opcode: str) -> dict[tuple[object, ...], list[tuple[Specimen, int]]]:
    groups: dict[tuple[object, ...], list[tuple[Specimen, int]]] = {}
    for one, immediate in variants(opcode):
        key = (one.inputs, ".cc" in one.form.text)
        groups.setdefault(key, []).append((one, immediate))
    return groups


def _load(register: str, bits: int, index: int) -> list[str]:
    place = f"[%in+{index * LANES * 8}]"
    if bits == 1:
        return [f"ld.global.b32 %word, {place};", f"setp.ne.u32 {register}, %word, 0;"]
    return [f"ld.global.b{bits} {register}, {place};"]


def _store(register: str, bits: int, index: int) -> list[str]:
    place = f"[%out+{index * LANES * 8}]"
    if bits == 1:
        return [f"selp.u32 %word, 1, 0, {register};", f"st.global.b32 {place}, %word;"]
    return [f"st.global.b{bits} {place}, {register};"]


def _clear(register: str, bits: int) -> str:
    if bits == 1:
        return f"setp.ne.u32 {register}, 0, 0;"
    return f"mov.b{bits} {register}, {SENTINEL & ((1 << bits) - 1)};"


def _carries(opcode: str) -> bool:
    return opcode in ("addc", "subc", "madc")


def kernel(group: list[tuple[Specimen, int]], carry: bool) -> tuple[str, int]:
    """A kernel that runs each instruction twice; and the number of results it stores."""
    first = group[0][0]
    count = len(first.inputs)
    lines = [
        declarations([one for one, _ in group]),
        ".reg .b64 %in, %out, %offset; .reg .b32 %word, %carry; .reg .pred %some;",
        "mov.u32 %word, %tid.x; mul.wide.u32 %offset, %word, 8;",
        "add.s64 %in, %p0, %offset; add.s64 %out, %p1, %offset;",
        *_load("%some", 1, count + 1),
        f"ld.global.b32 %carry, [%in+{count * LANES * 8}];",
    ]
    for place, index in {place: i for i, place in enumerate(first.inputs)}.items():
        lines += _load(place.register, place.bits, index)
    stored = 0
    for one, _ in group:
        for guard in ("", "@%some "):
            lines += [_clear(place.register, place.bits) for place in one.outputs]
            if carry:
                lines.append("add.cc.u32 %word, %carry, 0xffffffff;")
            lines.append(guard + one.text)
            if carry:
                lines.append("addc.u32 %word, 0, 0;")
                lines.append(f"st.global.b32 [%out+{stored * LANES * 8}], %word;")
                stored += 1
            for place in one.outputs:
                lines += _store(place.register, place.bits, stored)
                stored += 1
    return entry(lines), stored


def agrees(expected: object, got: int, bits: int, kind: str) -> bool:
    """Whether bits are what the definition allows."""
    mask = (1 << bits) - 1
    if isinstance(expected, list):
        half = bits // 2
        kind = kind.removesuffix("x2")
        parts = (got & ((1 << half) - 1), got >> half)
        return all(agrees(e, g, half, kind) for e, g in zip(expected, parts, strict=True))
    if expected == NAN:
        return decode(got, kind)[0] == NAN
    if isinstance(expected, Near):
        value = to_float(decode(got, expected.kind))
        if math.isinf(value):
            largest = to_float(decode(FORMATS[expected.kind].largest, expected.kind))
            return abs(expected.value) >= largest and value * expected.value > 0
        bound = expected.relative * abs(expected.value) + expected.absolute
        return abs(value - expected.value) <= bound
    if kind == "sign of zero":
        return got & mask == 0
    return got == expected & mask


def check(group: list[tuple[Specimen, int]], opcode: str) -> list[str]:
    """Runs a group; the disagreements, as text."""
    first = group[0][0]
    kinds = tuple(place.type for place in first.inputs)
    columns = operand_values(kinds)
    carry = _carries(opcode) or any(".cc" in one.form.text for one, _ in group)
    data = np.zeros((len(kinds) + 2, LANES), np.uint64)
    for index, (place, column) in enumerate(zip(first.inputs, columns, strict=True)):
        garbage = 0 if place.bits == 1 else SENTINEL & ((1 << place.bits) - 1)
        keep = (1 << min(place.bits, max(1, _bits(place.type)))) - 1
        data[index] = [garbage & ~keep | value for value in column]
    data[-2] = [lane // 3 & 1 for lane in range(LANES)]
    data[-1] = PARTIAL
    text, stored = kernel(group, carry)
    result = aligned(np.zeros((stored, LANES), np.uint64))
    module = ptx_module(text)
    report = module.kernels["kernel"].launch((1,), (LANES,), [aligned(data), result], checks=False)
    assert report.outcome == "finished"
    rows = iter(result.tolist())
    wrong = []
    for one, immediate in group:
        lane_function = DEFINITIONS[opcode](one.form, immediate)
        negate = 1 if "!" in one.text else 0
        expected = []
        for lane in range(LANES):
            values = [column[lane] for column in columns]
            if negate:
                values[-1] ^= 1
            if carry:
                values.append(lane // 3 & 1)
            outcome = lane_function(*values)
            if carry:
                outcome = (outcome[1], outcome[0])
            expected.append(outcome if isinstance(outcome, tuple) else (outcome,))
        for partial in (False, True):
            outputs = [("carry", 1, "u32")] if carry else []
            outputs += [(place.register, place.bits, place.type) for place in one.outputs]
            for index, (register, bits, kind) in enumerate(outputs):
                for lane, got in enumerate(next(rows)):
                    wanted = expected[lane][index]
                    if partial and not PARTIAL[lane]:
                        wanted = SENTINEL & ((1 << bits) - 1) if bits > 1 else 0
                        if register == "carry":
                            wanted = lane // 3 & 1
                    if not agrees(wanted, got, max(bits, 2) if bits > 1 else 1, kind):
                        values = ", ".join(hex(column[lane]) for column in columns)
                        shown = hex(wanted) if isinstance(wanted, int) else wanted
                        wrong.append(f"{one.text} of {values}: {shown}, got {got:#x}")
                        break
    return wrong


def _bits(kind: str) -> int:
    from gpu_ladder.ptx.table import TYPE_BITS

    return TYPE_BITS[kind]


@pytest.mark.parametrize("opcode", sorted(DEFINITIONS))
def test_every_form_follows_the_definition(opcode: str) -> None:
    wrong: list[str] = []
    for group in _group(opcode).values():
        wrong += check(group, opcode)
    assert wrong == []
