"""Every form of loads, stores and atomics, against the bytes that they must move."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ptx_all_definitions import DEFINITIONS
from ptx_definitions import number, wrap
from ptx_numbers import NAN, decode, encode, flush, total
from ptx_specimens import Specimen, declarations, specimen
from ptx_support import aligned, entry, ptx_module
from ptx_values import operand_values

from gpu_ladder.ptx.instructions import ROWS
from gpu_ladder.ptx.table import TYPE_BITS, Form

LANES = 32
BYTES = 32  # of each lane
PATTERN = np.array([(index * 37 + 11) & 0xFF for index in range(LANES * BYTES)], np.uint8)
CELLS = (0, 8, 16, 24)
# %g, %s, %l: the lane's bytes in global, shared and local memory; %x: one of them, generic.
SETUP = [
    ".shared .align 16 .b8 tile[1024]; .local .align 16 .b8 stack[32];",
    ".reg .b64 %g, %s, %s0, %l, %x, %out, %offset, %policy, %word<4>, %address;",
    ".reg .b32 %thread, %kind; .reg .pred %first, %second;",
    "mov.u32 %thread, %tid.x; mul.wide.u32 %offset, %thread, 32; mov.b64 %policy, 0;",
    "add.s64 %g, %p0, %offset; mov.u64 %s0, tile; add.s64 %s, %s0, %offset; mov.u64 %l, stack;",
    "mul.wide.u32 %offset, %thread, 8; add.s64 %out, %p1, %offset;",
    "rem.u32 %kind, %thread, 3; setp.eq.u32 %first, %kind, 0; setp.eq.u32 %second, %kind, 1;",
    "cvta.local.u64 %x, %l; @%first mov.b64 %x, %g; @%second cvta.shared.u64 %x, %s;",
]


def forms(opcode: str) -> list[Form]:
    return [form for row in ROWS if row.opcode == opcode for form in row.forms()]


def placed(one: Specimen) -> str:
    """The instruction with the address that its state space needs."""
    words = one.form.text.split(".")
    if "global" in words:
        return one.text.replace("%address", "%g")
    if "shared" in words or "shared::cta" in words:
        return one.text.replace("%address", "%s")
    return one.text.replace("%address", "%l" if "local" in words else "%x")


def batches(opcode: str, size: int = 250) -> Iterator[list[Specimen]]:
    found = [specimen(form) for form in forms(opcode)]
    found += [
        specimen(form, wide=True)
        for form in forms(opcode)
        if any(operand.wider for operand in form.row.operands)
    ]
    for begin in range(0, len(found), size):
        yield found[begin : begin + size]


def run(lines: list[str], data: np.ndarray, stored: int, batch: list[Specimen]) -> np.ndarray:
    """Executes a kernel whose third parameter, and a constant, hold the pattern's beginning."""
    text = entry([declarations(batch), *SETUP, *lines], params=2)
    text = text.replace(
        ") {", ", .param .align 16 .b8 parameters[32]) {\n  .param .align 16 .b8 argument[32];", 1
    )
    values = ", ".join(str(value) for value in PATTERN[:BYTES])
    module = ptx_module(f".const .align 16 .b8 constants[32] = {{{values}}};\n{text}")
    result = aligned(np.zeros((stored, LANES), np.uint64))
    arguments = [aligned(data), result, bytes(PATTERN[:BYTES])]
    report = module.kernels["kernel"].launch((1,), (LANES,), arguments)
    assert report.findings == ()
    assert report.outcome == "finished"
    return result


@pytest.mark.parametrize("wide_batch", range(2))
def test_every_load(wide_batch: int) -> None:
    for batch in list(batches("ld"))[wide_batch::2]:
        lines = []
        for cell in CELLS:
            lines.append(f"ld.global.b64 %word0, [%g+{cell}];")
            lines += [f"st.{to}.b64 [%{to[0]}+{cell}], %word0;" for to in ("shared", "local")]
        stored = 0
        for one in batch:
            lines.append(placed(one))
            for place in one.outputs:
                lines.append(f"st.global.b{place.bits} [%out+{stored * 256}], {place.register};")
                stored += 1
        rows = iter(run(lines, PATTERN, stored, batch).tolist())
        wrong = []
        for one in batch:
            kind = one.outputs[0].type
            size = TYPE_BITS[kind] // 8
            same = "[%address]" not in one.text  # parameters and constants: one for all lanes
            for index, place in enumerate(one.outputs):
                for lane, got in enumerate(next(rows)):
                    begin = (0 if same else lane * BYTES) + index * size
                    value = int.from_bytes(PATTERN[begin : begin + size].tobytes(), "little")
                    if number(value, kind) & ((1 << place.bits) - 1) != got:
                        wrong.append(f"{one.text} lane {lane}: {got:#x}")
        assert wrong == []


@pytest.mark.parametrize("wide_batch", range(2))
def test_every_store(wide_batch: int) -> None:
    old = 0x1122334455667788
    for batch in list(batches("st"))[wide_batch::2]:
        lines = [f"mov.b64 %word1, {old};"]
        for index in range(8):
            lines += [
                f"ld.global.b64 %word0, [%g+{index % 4 * 8}];",
                f"add.u64 %word{2 + index % 2}, %word0, {index};",
            ]
            for bits in (64, 32, 16):
                name = f"%s{index}_{bits}"
                if any(place.register == name for one in batch for place in one.inputs):
                    lines.append(f"cvt.u{bits}.u64 {name}, %word{2 + index % 2};")
        lines.append("add.s64 %g, %g, 1024;")  # behind the pattern
        lines.append("@%first mov.b64 %x, %g;")
        stored = 0
        for one in batch:
            text = placed(one)
            parameter = "[argument]" in text
            place = "argument" if parameter else text.split("[")[1].split("]")[0]
            space = "param" if parameter else {"%s": "shared", "%l": "local"}.get(place, "")
            dot = f".{space}" if space else ""
            lines += [f"st{dot}.b64 [{place}+{cell}], %word1;" for cell in CELLS]
            lines.append(text)
            for cell in CELLS:
                lines.append(f"ld{dot}.b64 %word0, [{place}+{cell}];")
                lines.append(f"st.global.b64 [%out+{stored * 256}], %word0;")
                stored += 1
        data = np.concatenate([PATTERN, np.zeros_like(PATTERN)])
        result = run(lines, data, stored, batch)
        words = PATTERN.view(np.uint64).reshape(LANES, 4)
        wrong = []
        for begin, one in enumerate(batch):
            size = TYPE_BITS[one.inputs[0].type] // 8
            for lane in range(LANES):
                expected = bytearray(old.to_bytes(8, "little") * 4)
                for index in range(len(one.inputs)):
                    value = (int(words[lane][index % 4]) + index) & (2**64 - 1)
                    expected[index * size : (index + 1) * size] = value.to_bytes(8, "little")[:size]
                got = result[4 * begin : 4 * begin + 4, lane].tobytes()
                if got != bytes(expected):
                    wrong.append(f"{one.text} lane {lane}: {got.hex()}")
        assert wrong == []


def changed(form: Form, old: int, values: tuple[int, ...]) -> int | str:
    """What an atomic leaves in memory."""
    words = form.text.split(".")
    kind = words[-1]
    value = values[0]
    operation = next(
        w
        for w in words
        if w in ("add", "min", "max", "and", "or", "xor", "exch", "inc", "dec", "cas")
    )
    if operation == "cas":
        return values[1] if old == values[0] else old
    if operation == "exch":
        return value
    if operation == "inc":
        return 0 if old >= value else old + 1
    if operation == "dec":
        return value if old == 0 or old > value else old - 1
    if operation in ("and", "or", "xor"):
        return {"and": old & value, "or": old | value, "xor": old ^ value}[operation]
    if operation in ("min", "max"):
        return wrap(
            (min if operation == "min" else max)(number(old, kind), number(value, kind)), kind
        )
    if kind.endswith("x2"):
        parts = [
            _float_sum(kind[:-2], (old >> shift) & 0xFFFF, (value >> shift) & 0xFFFF, False)
            for shift in (0, 16)
        ]
        return parts[0] | parts[1] << 16
    if kind in ("f16", "bf16", "f32", "f64"):
        # On global memory f32 flushes subnormal numbers, on shared memory it does not.
        return _float_sum(kind, old, value, kind == "f32" and "shared" not in form.text)
    return wrap(old + value, kind)


def _float_sum(kind: str, old: int, value: int, flushes: bool) -> int | str:
    a, b = decode(old, kind), decode(value, kind)
    if flushes:
        a, b = flush(a, kind), flush(b, kind)
    result = encode(total(a, b, "rn"), kind)
    if flushes and result != NAN:
        result = encode(flush(decode(result, kind), kind), kind)
    return result


@pytest.mark.parametrize("opcode", ["atom", "red"])
def test_every_atomic(opcode: str) -> None:
    for batch in batches(opcode, 400):
        kinds = sorted({tuple(place.type for place in one.inputs) for one in batch})
        sets = {kind: operand_values((kind[0], *kind), 7) for kind in kinds}
        # Equal values in some lanes, so that some comparisons of cas succeed.
        data = np.zeros((len(kinds), 3, LANES, 1), np.uint64)
        for index, kind in enumerate(kinds):
            columns = [column[40 : 40 + LANES] for column in sets[kind]]
            columns[1][::3] = columns[0][::3] if len(kind) == 2 else columns[1][::3]
            sets[kind] = columns
            for place, column in enumerate(columns):
                data[index, place, :, 0] = column
        lines = [
            "add.s64 %word2, %p0, %offset; add.s64 %word3, %p0, 65536;",
            "add.s64 %g, %word3, %offset;",
            "mul.wide.u32 %offset, %thread, 8; add.s64 %s, %s0, %offset; mov.b64 %x, %g;",
        ]
        stored = 0
        for one in batch:
            index = kinds.index(tuple(place.type for place in one.inputs))
            text = placed(one)
            shared = "[%s]" in text
            lines.append(f"ld.global.b64 %word0, [%word2+{index * 768}];")
            lines.append(
                f"st.{'shared' if shared else 'global'}.b64 [{'%s' if shared else '%g'}], %word0;"
            )
            for place, where in zip(one.inputs, (1, 2), strict=False):
                offset = index * 768 + where * 256
                lines.append(f"ld.global.b{place.bits} {place.register}, [%word2+{offset}];")
            lines.append(text)
            for place in one.outputs:
                lines.append(f"st.global.b{place.bits} [%out+{stored * 256}], {place.register};")
                stored += 1
            lines.append(
                f"ld.{'shared' if shared else 'global'}.b64 %word0, [{'%s' if shared else '%g'}];"
            )
            lines.append(f"st.global.b64 [%out+{stored * 256}], %word0;")
            stored += 1
        memory = np.zeros(65536 // 8 + LANES, np.uint64)
        memory[: data.size] = data.ravel()
        rows = iter(run(lines, memory, stored, batch).tolist())
        wrong = []
        for one in batch:
            kind = tuple(place.type for place in one.inputs)
            mask = (1 << TYPE_BITS[kind[0]]) - 1
            old = sets[kind][0]
            if one.outputs and next(rows) != [value & mask for value in old]:
                wrong.append(f"{one.text} returns other values")
            for lane, got in enumerate(next(rows)):
                values = tuple(column[lane] for column in sets[kind][1:])
                expected = changed(one.form, old[lane] & mask, values)
                if expected == NAN:
                    fine = decode(got & mask, kind[0])[0] == NAN
                else:
                    fine = got & mask == expected
                if not fine:
                    wrong.append(f"{one.text} {old[lane]:#x} {values}: {expected} {got:#x}")
        assert wrong == []


def test_tables_name_no_opcode_twice() -> None:
    assert not {"ld", "st", "atom", "red"} & set(DEFINITIONS)
