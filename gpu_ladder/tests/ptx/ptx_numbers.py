"""Binary floating point by whole numbers: exact results, rounded once.

A number is (sign, mantissa, exponent), worth (-1)**sign * mantissa * 2**exponent, or INFINITE with
a sign, or NAN.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

NAN = "nan"
INFINITE = "inf"
Number = tuple  # (sign, mantissa, exponent) | (INFINITE, sign) | (NAN,)


@dataclass(frozen=True)
class Format:
    """A binary format: bits of the significand, of the exponent, and the NaN that CUDA returns."""

    precision: int
    exponent_bits: int
    nan: int | None

    @property
    def bits(self) -> int:
        return self.precision + self.exponent_bits

    @property
    def last(self) -> int:
        """The exponent of the last bit of a subnormal number."""
        return 3 - (1 << (self.exponent_bits - 1)) - self.precision

    @property
    def largest(self) -> int:
        """The bits of the largest finite number."""
        return ((1 << self.exponent_bits) - 1 << (self.precision - 1)) - 1

    @property
    def infinity(self) -> int:
        return self.largest + 1


FORMATS = {
    "f16": Format(11, 5, 0x7FFF),
    "bf16": Format(8, 8, 0x7FFF),
    "f32": Format(24, 8, 0x7FFFFFFF),
    "f64": Format(53, 11, None),
    "tf32": Format(11, 8, None),
}


@functools.cache
def decode(bits: int, kind: str) -> Number:
    form = FORMATS[kind]
    sign = bits >> (form.bits - 1)
    magnitude = bits & ((1 << (form.bits - 1)) - 1)
    if magnitude > form.infinity:
        return (NAN,)
    if magnitude == form.infinity:
        return (INFINITE, sign)
    exponent = magnitude >> (form.precision - 1)
    fraction = magnitude & ((1 << (form.precision - 1)) - 1)
    if exponent:
        return (sign, fraction | 1 << (form.precision - 1), exponent - 1 + form.last)
    return (sign, fraction, form.last)


def flush(number: Number, kind: str) -> Number:
    """Subnormal numbers to zeros of the same sign."""
    form = FORMATS[kind]
    if (
        len(number) == 3
        and number[1]
        and number[2] + number[1].bit_length() < form.last + (form.precision)
    ):
        return (number[0], 0, 0)
    return number


def encode(number: Number, kind: str, rounding: str = "rn", inexact: bool = False) -> int | str:
    """Rounds to a format. `inexact`: the true magnitude is a little larger than the number says."""
    form = FORMATS[kind]
    top = 1 << (form.bits - 1)
    if number[0] == NAN:
        return NAN if form.nan is None else form.nan
    if number[0] == INFINITE:
        return form.infinity | number[1] * top
    sign, mantissa, exponent = number
    if inexact:
        # One more bit that is set, below all that matter.
        mantissa, exponent = (mantissa << 80) | 1, exponent - 80
    if mantissa == 0:
        return sign * top
    last = max(exponent + mantissa.bit_length() - form.precision, form.last)
    shift = last - exponent
    if shift <= 0:
        whole, rest, half = mantissa << -shift, 0, 1
    else:
        whole, rest, half = mantissa >> shift, mantissa & ((1 << shift) - 1), 1 << (shift - 1)
    up = {
        "rn": rest > half or (rest == half and bool(whole & 1) and rest > 0),
        "rna": rest >= half and rest > 0,
        "rz": False,
        "rm": rest > 0 and sign == 1,
        "rp": rest > 0 and sign == 0,
    }[rounding]
    whole += up
    if whole.bit_length() > form.precision:
        whole, last = whole >> 1, last + 1
    magnitude = whole
    if whole >> (form.precision - 1):
        magnitude += (last - form.last) << (form.precision - 1)
    if magnitude >= form.infinity:
        to_infinity = rounding in ("rn", "rna") or rounding == ("rm" if sign else "rp")
        magnitude = form.infinity if to_infinity else form.largest
    return magnitude | sign * top


def negative(number: Number) -> Number:
    if number[0] == NAN:
        return number
    if number[0] == INFINITE:
        return (INFINITE, 1 - number[1])
    return (1 - number[0], *number[1:])


def sign_of(number: Number) -> int:
    return number[1] if number[0] == INFINITE else number[0]


def is_zero(number: Number) -> bool:
    return len(number) == 3 and number[1] == 0


def product(a: Number, b: Number) -> Number:
    if NAN in (a[0], b[0]):
        return (NAN,)
    sign = sign_of(a) ^ sign_of(b)
    if INFINITE in (a[0], b[0]):
        return (NAN,) if is_zero(a) or is_zero(b) else (INFINITE, sign)
    return (sign, a[1] * b[1], a[2] + b[2])


def total(a: Number, b: Number, rounding: str) -> Number:
    """The exact sum; the sign of a zero depends on the rounding mode."""
    if NAN in (a[0], b[0]):
        return (NAN,)
    if a[0] == INFINITE or b[0] == INFINITE:
        if a[0] == b[0] and a[1] != b[1]:
            return (NAN,)
        return a if a[0] == INFINITE else b
    exponent = min(a[2], b[2])
    x = (-1) ** a[0] * a[1] << (a[2] - exponent)
    y = (-1) ** b[0] * b[1] << (b[2] - exponent)
    if x + y == 0:
        sign = a[0] if a[0] == b[0] and a[1] == b[1] == 0 else int(rounding == "rm")
        return (sign, 0, 0)
    return (int(x + y < 0), abs(x + y), exponent)


def quotient(a: Number, b: Number) -> tuple[Number, bool]:
    """The quotient to 80 bits beyond what any format has, and whether that is not all of it."""
    if NAN in (a[0], b[0]) or (a[0] == b[0] == INFINITE) or (is_zero(a) and is_zero(b)):
        return (NAN,), False
    sign = sign_of(a) ^ sign_of(b)
    if a[0] == INFINITE or is_zero(b):
        return (INFINITE, sign), False
    if b[0] == INFINITE or is_zero(a):
        return (sign, 0, 0), False
    scaled = a[1] << 160
    return (sign, scaled // b[1], a[2] - b[2] - 160), scaled % b[1] != 0


def root(a: Number) -> tuple[Number, bool]:
    if a[0] == NAN or (not is_zero(a) and sign_of(a)):
        return (NAN,), False
    if a[0] == INFINITE or is_zero(a):
        return a, False
    mantissa, exponent = (
        (a[1] << 201, a[2] - 201) if (a[2] - 200) % 2 else (a[1] << 200, a[2] - 200)
    )
    whole = math.isqrt(mantissa)
    return (0, whole, exponent // 2), whole * whole != mantissa


def compare(a: Number, b: Number) -> int | None:
    """-1, 0 or 1; None with a NaN."""
    if NAN in (a[0], b[0]):
        return None
    x, y = _order(a), _order(b)
    if isinstance(x, float) or isinstance(y, float):
        return (x > y) - (x < y)
    exponent = min(a[2], b[2])
    x, y = x << (a[2] - exponent), y << (b[2] - exponent)
    return (x > y) - (x < y)


def _order(number: Number) -> int | float:
    if number[0] == INFINITE:
        return -math.inf if number[1] else math.inf
    return (-1) ** number[0] * number[1]


def to_integer(number: Number, rounding: str) -> int:
    """Rounds a finite number to a whole one; rni, rzi, rmi, rpi."""
    sign, mantissa, exponent = number
    value = -mantissa if sign else mantissa
    if exponent >= 0:
        return value << exponent
    floor, rest = divmod(value, 1 << -exponent)
    half = 1 << (-exponent - 1)
    if rounding == "rni":
        return floor + (rest > half or (rest == half and floor % 2 == 1))
    if rounding == "rzi":
        return floor + (rest > 0 and value < 0)
    return floor + (rest > 0 and rounding == "rpi")


def from_integer(value: int) -> Number:
    return (int(value < 0), abs(value), 0)


def to_float(number: Number) -> float:
    """As a Python number, for functions that are compared within a tolerance."""
    if number[0] == NAN:
        return math.nan
    if number[0] == INFINITE:
        return -math.inf if number[1] else math.inf
    return math.copysign(math.ldexp(number[1], number[2]), -1.0 if number[0] else 1.0)
