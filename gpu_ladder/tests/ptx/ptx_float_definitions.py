"""What PTX says about floating point, and about opcodes that take whole numbers too."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from ptx_definitions import (
    Lane,
    Near,
    definition,
    integer_lane,
    number,
    per_part,
    rounding_of,
    type_of,
)
from ptx_numbers import (
    FORMATS,
    INFINITE,
    NAN,
    compare,
    decode,
    encode,
    flush,
    is_zero,
    negative,
    product,
    quotient,
    root,
    sign_of,
    to_float,
    total,
)

from gpu_ladder.ptx.table import TYPE_BITS, Form


class Float:
    """The modifiers of a form, applied around an exact operation."""

    def __init__(self, form: Form, kind: str) -> None:
        self.kind = kind
        self.rounding = rounding_of(form)
        self.ftz = "ftz" in form.text.split(".")
        self.sat = "sat" in form.text.split(".")
        self.relu = "relu" in form.text.split(".")

    def read(self, bits: int, kind: str | None = None) -> Any:
        value = decode(bits, kind or self.kind)
        return flush(value, kind or self.kind) if self.ftz else value

    def write(self, value: Any, inexact: bool = False) -> Any:
        if value[0] == NAN and self.sat:
            return 0
        bits = encode(value, self.kind, self.rounding, inexact)
        if bits == NAN:
            return NAN
        if self.ftz:
            bits = encode(flush(decode(bits, self.kind), self.kind), self.kind)
        rounded = decode(bits, self.kind)
        if rounded[0] == NAN:
            return bits
        if self.sat:
            if sign_of(rounded) or is_zero(rounded):
                return 0
            if compare(rounded, (0, 1, 0)) == 1:
                return encode((0, 1, 0), self.kind)
        if self.relu and sign_of(rounded):
            return 0
        return bits


_EXACT: dict[str, Callable[..., Any]] = {
    "add": lambda f, a, b: total(a, b, f.rounding),
    "sub": lambda f, a, b: total(a, negative(b), f.rounding),
    "mul": lambda f, a, b: product(a, b),
    "fma": lambda f, a, b, c: total(product(a, b), c, f.rounding),
    "mad": lambda f, a, b, c: total(product(a, b), c, f.rounding),
}


def _real(form: Form) -> Lane:
    opcode = form.row.opcode
    if re.search(r"f32\.b?f16$", form.text):
        narrow = type_of(form)
        float32 = Float(form, "f32")

        def mixed(*values: int) -> Any:
            narrows = [decode(value, narrow) for value in values[:-1]]
            exact = _EXACT[opcode](float32, *narrows, decode(values[-1], "f32"))
            return float32.write(exact)

        return mixed

    def lane(kind: str) -> Lane:
        form_float = Float(form, kind)

        def apply(*values: int) -> Any:
            exact = _EXACT[opcode](form_float, *(form_float.read(value) for value in values))
            return form_float.write(exact)

        return apply

    return per_part(form, lane)


@definition("add", "sub", "mul", "mad", "mul24", "mad24", "fma", "sad")
def _arithmetic(form: Form, immediate: int) -> Lane:
    kind = type_of(form).removesuffix("x2")
    if ".cc" in form.text:
        return _carry(form)
    return _real(form) if kind in FORMATS else integer_lane(form)


@definition("addc", "subc", "madc")
def _with_carry(form: Form, immediate: int) -> Lane:
    return _carry(form)


def _carry(form: Form) -> Lane:
    """Operands, then the carry before; the result, then the carry after."""
    kind = type_of(form)
    bits = TYPE_BITS[kind]
    opcode = form.row.opcode

    def apply(*values: int) -> tuple[int, int]:
        *operands, carry = values
        carry = carry if opcode.endswith("c") else 0
        if opcode.startswith("mad"):
            first = number(operands[0], kind) * number(operands[1], kind)
            first = first >> bits if "hi" in form.chosen else first
        else:
            first = operands[0]
        first &= (1 << bits) - 1
        last = operands[-1]
        exact = first - last - carry if opcode.startswith("sub") else first + last + carry
        after = int(exact < 0 or exact >> bits != 0)
        return exact & ((1 << bits) - 1), after if "cc" in form.text.split(".") else values[-1]

    return apply


@definition("div", "rem")
def _division(form: Form, immediate: int) -> Lane:
    kind = type_of(form)
    if kind not in FORMATS:
        return integer_lane(form)
    numbers = Float(form, kind)
    approximate = "approx" in form.chosen or "full" in form.chosen

    def apply(a: int, b: int) -> Any:
        exact, inexact = quotient(numbers.read(a), numbers.read(b))
        bits = numbers.write(exact, inexact)
        return near_bits(bits, kind, 2**-22) if approximate else bits

    return apply


def near_bits(bits: Any, kind: str, relative: float, absolute: float = 0.0) -> Any:
    value = decode(bits, kind) if isinstance(bits, int) else (NAN,)
    if value[0] in (NAN, INFINITE) or is_zero(value):
        return bits
    return Near(to_float(value), kind, relative, absolute)


@definition("rcp", "sqrt")
def _root(form: Form, immediate: int) -> Lane:
    kind = type_of(form)
    numbers = Float(form, kind)

    def apply(a: int) -> Any:
        value = numbers.read(a)
        exact = root(value) if form.row.opcode == "sqrt" else quotient((0, 1, 0), value)
        bits = numbers.write(*exact)
        return near_bits(bits, kind, 2**-22) if "approx" in form.text else bits

    return apply


def _rsqrt(x: float) -> float:
    if x == 0:
        return math.copysign(math.inf, x)
    return math.nan if x < 0 else 1 / math.sqrt(x)


def _exp2(x: float) -> float:
    return math.inf if x >= 1024 else 0.0 if x < -1200 else 2.0**x


def _log2(x: float) -> float:
    return -math.inf if x == 0 else math.nan if x < 0 else math.log2(x)


_APPROXIMATE: dict[str, tuple[Callable[[float], float], float, float]] = {
    "rsqrt": (_rsqrt, 2**-22, 0.0),
    "ex2": (_exp2, 2**-22, 0.0),
    "lg2": (_log2, 2**-22, 2**-22),
    "sin": (lambda x: math.nan if math.isinf(x) else math.sin(x), 2**-22, 2**-20),
    "cos": (lambda x: math.nan if math.isinf(x) else math.cos(x), 2**-22, 2**-20),
    "tanh": (math.tanh, 2**-11, 0.0),
}


@definition(*_APPROXIMATE)
def _approximate(form: Form, immediate: int) -> Lane:
    function, relative, absolute = _APPROXIMATE[form.row.opcode]

    def lane(kind: str) -> Lane:
        numbers = Float(form, kind)
        bound = {"f16": 2**-9.9, "bf16": 2**-7}.get(kind, relative)

        def apply(a: int) -> Any:
            value = to_float(numbers.read(a))
            result = math.nan if math.isnan(value) else function(value)
            if math.isnan(result):
                return numbers.write((NAN,))
            form_ = FORMATS[kind]
            smallest = 2.0 ** (form_.last + form_.precision - 1)
            # Where a subnormal result is flushed depends on how it is rounded.
            lost = smallest if numbers.ftz else 2.0**form_.last
            return Near(result, kind, bound, max(absolute, lost))

        return apply

    return per_part(form, lane)


@definition("abs", "neg")
def _sign(form: Form, immediate: int) -> Lane:
    if type_of(form).removesuffix("x2") not in FORMATS:
        return integer_lane(form)

    def lane(kind: str) -> Lane:
        numbers = Float(form, kind)
        top = 1 << (TYPE_BITS[kind] - 1)

        def apply(a: int) -> Any:
            value = numbers.read(a)
            if value[0] == NAN:
                return NAN
            bits = encode(value, kind)
            return bits & ~top if form.row.opcode == "abs" else bits ^ top

        return apply

    return per_part(form, lane)


@definition("copysign")
def _copysign(form: Form, immediate: int) -> Lane:
    top = 1 << (TYPE_BITS[type_of(form)] - 1)
    return lambda a, b: (b & ~top) | (a & top)


@definition("testp")
def _test(form: Form, immediate: int) -> Lane:
    kind = type_of(form)
    smallest = (0, 1 << (FORMATS[kind].precision - 1), FORMATS[kind].last)

    def apply(a: int) -> int:
        value = decode(a, kind)
        subnormal = (
            len(value) == 3 and not is_zero(value) and compare((0, *value[1:]), smallest) == -1
        )
        return int(
            {
                "finite": len(value) == 3,
                "infinite": value[0] == INFINITE,
                "number": value[0] != NAN,
                "notanumber": value[0] == NAN,
                "normal": len(value) == 3 and not subnormal,
                "subnormal": subnormal,
            }[form.chosen[0]]
        )

    return apply
