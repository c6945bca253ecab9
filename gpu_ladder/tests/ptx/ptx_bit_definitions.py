"""What PTX says about bits, comparisons, conversions and moves; see ptx_definitions."""

from __future__ import annotations

from typing import Any

from ptx_definitions import (
    Lane,
    definition,
    number,
    signed,
    type_of,
    wrap,
)
from ptx_numbers import (
    FORMATS,
    compare,
    decode,
    flush,
)

from gpu_ladder.ptx.table import TYPE_BITS, Form


@definition("and", "or", "xor", "not", "cnot")
def _logic(form: Form, immediate: int) -> Lane:
    kind = type_of(form)
    return {
        "and": lambda a, b: a & b,
        "or": lambda a, b: a | b,
        "xor": lambda a, b: a ^ b,
        "not": lambda a: wrap(~a, kind),
        "cnot": lambda a: int(a == 0),
    }[form.row.opcode]


@definition("shl", "shr")
def _shift(form: Form, immediate: int) -> Lane:
    kind = type_of(form)
    if form.row.opcode == "shl":
        return lambda a, n: wrap(a << min(n, 64), kind)
    return lambda a, n: wrap(number(a, kind) >> min(n, 64), kind)


@definition("shf")
def _funnel(form: Form, immediate: int) -> Lane:
    def apply(a: int, b: int, c: int) -> int:
        amount = c & 31 if "wrap" in form.chosen else min(c, 32)
        both = b << 32 | a
        return (both << amount >> 32 if "l" in form.chosen else both >> amount) & 0xFFFFFFFF

    return apply


@definition("popc", "clz", "bfind", "brev")
def _count(form: Form, immediate: int) -> Lane:
    kind = type_of(form)
    bits = TYPE_BITS[kind]

    def find(a: int) -> int:
        value = number(a, kind)
        value = ~value if value < 0 else value
        if value == 0:
            return 0xFFFFFFFF
        place = value.bit_length() - 1
        return bits - 1 - place if "shiftamt" in form.chosen else place

    return {
        "popc": lambda a: bin(a).count("1"),
        "clz": lambda a: bits - a.bit_length(),
        "brev": lambda a: int(f"{a:0{bits}b}"[::-1], 2),
        "bfind": find,
    }[form.row.opcode]


@definition("bfe")
def _extract(form: Form, immediate: int) -> Lane:
    kind = type_of(form)
    bits = TYPE_BITS[kind]

    def apply(a: int, b: int, c: int) -> int:
        start, length = b & 0xFF, c & 0xFF
        sign = 0
        if kind.startswith("s") and length:
            sign = a >> min(start + length - 1, bits - 1) & 1
        result = 0
        for place in range(bits):
            inside = place < length and start + place < bits
            result |= (a >> (start + place) & 1 if inside else sign) << place
        return result

    return apply


@definition("bfi")
def _insert(form: Form, immediate: int) -> Lane:
    bits = TYPE_BITS[type_of(form)]

    def apply(a: int, b: int, c: int, d: int) -> int:
        start, length = c & 0xFF, d & 0xFF
        for place in range(length):
            if start + place < bits:
                b = b & ~(1 << (start + place)) | (a >> place & 1) << (start + place)
        return b

    return apply


_SELECTORS = {
    "f4e": ("3210", "4321", "5432", "6543"),
    "b4e": ("5670", "6701", "7012", "0123"),
    "rc8": ("0000", "1111", "2222", "3333"),
    "ecl": ("3210", "3211", "3222", "3333"),
    "ecr": ("0000", "1110", "2210", "3210"),
    "rc16": ("1010", "3232", "1010", "3232"),
}


@definition("prmt")
def _permute(form: Form, immediate: int) -> Lane:
    table = _SELECTORS.get(form.chosen[-1])

    def apply(a: int, b: int, c: int) -> int:
        data = (b << 32 | a).to_bytes(8, "little")
        picks = (
            [int(x) for x in reversed(table[c & 3])]
            if table
            else [c >> 4 * i & 15 for i in range(4)]
        )
        result = []
        for pick in picks:
            byte = data[pick & 7]
            result.append((0xFF if byte & 0x80 else 0) if pick & 8 else byte)
        return int.from_bytes(bytes(result), "little")

    return apply


@definition("lop3")
def _lookup(form: Form, immediate: int) -> Lane:
    def apply(a: int, b: int, c: int) -> int:
        return sum(
            (immediate >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1) << i
            for i in range(32)
        )

    return apply


@definition("dp4a")
def _dot(form: Form, immediate: int) -> Lane:
    first, second = form.chosen

    def apply(a: int, b: int, c: int) -> int:
        result = c
        for shift in (0, 8, 16, 24):
            result += number(a >> shift, first[0] + "8") * number(b >> shift, second[0] + "8")
        return result & 0xFFFFFFFF

    return apply


def _holds(comparison: str, order: int | None) -> bool:
    if comparison in ("num", "nan"):
        return (order is None) == (comparison == "nan")
    if order is None:
        return comparison.endswith("u")
    name = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}.get(comparison, comparison)[:2]
    return {
        "eq": order == 0,
        "ne": order != 0,
        "lt": order < 0,
        "le": order <= 0,
        "gt": order > 0,
        "ge": order >= 0,
    }[name]


def _truth(form: Form) -> Lane:
    kind = type_of(form)
    ftz = "ftz" in form.chosen

    def order(a: int, b: int) -> int | None:
        if kind in FORMATS:
            x, y = decode(a, kind), decode(b, kind)
            return compare(flush(x, kind), flush(y, kind)) if ftz else compare(x, y)
        x, y = number(a, kind), number(b, kind)
        return (x > y) - (x < y)

    return lambda a, b: _holds(form.chosen[0], order(a, b))


def _combined(form: Form, truth: bool, other: int | None) -> int:
    if other is None:
        return int(truth)
    return {"and": truth & other, "or": truth | other, "xor": truth ^ other}[form.chosen[1]]


@definition("setp")
def _set_predicate(form: Form, immediate: int) -> Lane:
    truth = _truth(form)
    single = not form.row.operands[0].paired

    def apply(a: int, b: int, c: int | None = None) -> Any:
        result = bool(truth(a, b))
        first = _combined(form, result, c)
        return first if single else (first, _combined(form, not result, c))

    return apply


@definition("set")
def _set_value(form: Form, immediate: int) -> Lane:
    truth = _truth(form)
    one = 0x3F800000 if form.captures["D"] == "f32" else 0xFFFFFFFF

    def apply(a: int, b: int, c: int | None = None) -> int:
        return one if _combined(form, bool(truth(a, b)), c) else 0

    return apply


@definition("selp")
def _select(form: Form, immediate: int) -> Lane:
    return lambda a, b, c: a if c else b


@definition("slct")
def _select_by_sign(form: Form, immediate: int) -> Lane:
    def apply(a: int, b: int, c: int) -> int:
        if form.chosen[-1] == "s32" or form.text.endswith(".s32"):
            return a if signed(c, 32) >= 0 else b
        value = decode(c, "f32")
        value = flush(value, "f32") if "ftz" in form.chosen else value
        order = compare(value, (0, 0, 0))
        return a if order is not None and order >= 0 else b

    return apply


@definition("mov")
def _move(form: Form, immediate: int) -> Lane:
    operands = form.row.operands
    into, out_of = form.length_of(operands[0]), form.length_of(operands[1])
    if out_of:
        bits = TYPE_BITS[operands[1].type]
        return lambda *parts: sum(part << bits * i for i, part in enumerate(parts))
    if into:
        bits = TYPE_BITS[operands[0].type]
        return lambda a: tuple(a >> bits * i & ((1 << bits) - 1) for i in range(into))
    return lambda a: a
