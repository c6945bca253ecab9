"""What PTX says about cvt; see ptx_definitions."""

from __future__ import annotations

from typing import Any

from ptx_definitions import Lane, clamp, definition, limits, number
from ptx_float_definitions import Float
from ptx_numbers import (
    FORMATS,
    INFINITE,
    NAN,
    decode,
    encode,
    flush,
    from_integer,
    is_zero,
    sign_of,
    to_integer,
)

from gpu_ladder.ptx.table import TYPE_BITS, Form


@definition("cvt")
def _convert(form: Form, immediate: int) -> Lane:
    words = form.text.split(".")[1:]
    source = words[-1]
    destination = words[-2]
    integral = next((w for w in words if w in ("rni", "rzi", "rmi", "rpi")), "")
    numbers = Float(form, destination) if destination in FORMATS else None
    if destination.endswith("x2"):
        part = Float(form, destination.removesuffix("x2"))
        return lambda a, b: part.write(decode(a, "f32")) << 16 | part.write(decode(b, "f32"))
    if destination == "tf32":
        return lambda a: _tensor32(form, a)

    def extend(value: int) -> int:
        """Into a register of 64 bits: by the sign of the destination's type."""
        return value & ((1 << 64) - 1)

    def apply(a: int) -> Any:
        if source not in FORMATS:
            value = number(a, source)
            if numbers:
                return numbers.write(from_integer(value))
            value = clamp(value, destination) if "sat" in words else value
            return extend(number(value, destination))
        wide = decode(a, source)
        if "ftz" in words and source == "f32":
            wide = flush(wide, source)
        if numbers is None:
            low, high = limits(destination)
            if wide[0] == NAN:
                odd = source == "f64" or TYPE_BITS[destination] == 64
                top = 1 << (TYPE_BITS[destination] - 1)
                return extend(number(top, destination)) if odd else 0
            if wide[0] == INFINITE:
                return extend(low if wide[1] else high)
            return extend(clamp(to_integer(wide, integral), destination))
        if integral and len(wide) == 3 and not is_zero(wide):
            whole = to_integer(wide, integral)
            wide = from_integer(whole) if whole else (sign_of(wide), 0, 0)
        flushes, numbers.ftz = numbers.ftz, numbers.ftz and destination == "f32"
        result = numbers.write(wide)
        numbers.ftz = flushes
        return result

    return apply


def _tensor32(form: Form, a: int) -> int:
    value = decode(a, "f32")
    if value[0] == NAN:
        return 0x7FFFFFFF
    if "relu" in form.chosen and sign_of(value):
        return 0
    mode = next(w for w in form.text.split(".") if w in ("rn", "rz", "rna"))
    # The format's bits stand above 13 zeros.
    return encode(value, "tf32", mode) << 13
