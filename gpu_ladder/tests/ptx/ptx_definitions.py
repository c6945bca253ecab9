"""What PTX says each arithmetic instruction does: on whole numbers, one lane at a time.

A definition takes a form (and an immediate operand) and gives a function from the operands' bits to
the results' bits. A result may also be `Near`, where PTX bounds an error, or NAN, where it leaves
open which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpu_ladder.ptx.table import TYPE_BITS, Form

Lane = Callable[..., Any]
DEFINITIONS: dict[str, Callable[[Form, int], Lane]] = {}


@dataclass(frozen=True)
class Near:
    """A result within an error bound."""

    value: float
    kind: str
    relative: float
    absolute: float = 0.0


def definition(
    *opcodes: str,
) -> Callable[[Callable[[Form, int], Lane]], Callable[[Form, int], Lane]]:
    def register(function: Callable[[Form, int], Lane]) -> Callable[[Form, int], Lane]:
        for opcode in opcodes:
            DEFINITIONS[opcode] = function
        return function

    return register


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def number(value: int, kind: str) -> int:
    bits = TYPE_BITS[kind]
    return signed(value, bits) if kind.startswith("s") else value & ((1 << bits) - 1)


def wrap(value: int, kind: str) -> int:
    return value & ((1 << TYPE_BITS[kind]) - 1)


def type_of(form: Form) -> str:
    """The last modifier that is a type."""
    return next(choice for choice in reversed(form.chosen) if choice in TYPE_BITS)


def rounding_of(form: Form, otherwise: str = "rn") -> str:
    return next((c for c in form.chosen if c in ("rn", "rz", "rm", "rp", "rna")), otherwise)


def limits(kind: str) -> tuple[int, int]:
    bits = TYPE_BITS[kind]
    if kind.startswith("s"):
        return -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return 0, (1 << bits) - 1


def clamp(value: int, kind: str) -> int:
    low, high = limits(kind)
    return max(low, min(high, value))


def split(value: int, kind: str) -> list[int]:
    """The parts of a packed register, the low one first."""
    bits = TYPE_BITS[kind] // 2
    return [value & ((1 << bits) - 1), value >> bits]


def join(parts: list[Any], kind: str) -> Any:
    if any(not isinstance(part, int) for part in parts):
        return parts
    return parts[0] | parts[1] << TYPE_BITS[kind] // 2


def per_part(form: Form, lane: Callable[[str], Lane]) -> Lane:
    """Applies a definition to the parts of packed types."""
    kind = type_of(form)
    if not kind.endswith("x2"):
        return lane(kind)
    inner = lane(kind.removesuffix("x2"))
    return lambda *values: join(
        [inner(*parts) for parts in zip(*(split(value, kind) for value in values), strict=True)],
        kind,
    )


# Integers.

_WHOLE: dict[str, Callable[..., int]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "min": min,
    "max": max,
    "abs": abs,
    "neg": lambda a: -a,
    "sad": lambda a, b, c: c + abs(a - b),
}


def _divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1)


def integer_lane(form: Form) -> Lane:
    opcode = form.row.opcode
    kind = type_of(form)

    def lane(part: str) -> Lane:
        bits = TYPE_BITS[part]

        def apply(*values: int) -> int:
            a = [number(value, part) for value in values]
            if opcode in ("div", "rem"):
                if a[1] == 0:
                    return wrap(-1 if opcode == "div" else a[0], part)
                quotient_ = _divide(a[0], a[1])
                return wrap(quotient_ if opcode == "div" else a[0] - quotient_ * a[1], part)
            if opcode in ("mul", "mad", "mul24", "mad24"):
                if opcode.endswith("24"):
                    a[:2] = [signed(v, 24) if part[0] == "s" else v & 0xFFFFFF for v in a[:2]]
                exact = a[0] * a[1]
                if "wide" in form.text:
                    third = number(values[2], part[0] + str(2 * bits)) if opcode == "mad" else 0
                    return (exact + third) & ((1 << 2 * bits) - 1)
                if "hi" in form.chosen or ".hi" in form.text:
                    exact >>= 16 if opcode.endswith("24") else bits
                exact += a[2] if opcode.startswith("mad") else 0
            else:
                exact = _WHOLE[opcode](*a)
            if "relu" in form.text:
                exact = max(exact, 0)
            return wrap(clamp(exact, part) if ".sat" in form.text else exact, part)

        return apply

    if kind.endswith("x2"):
        return per_part(form, lane)
    return lane(kind)
