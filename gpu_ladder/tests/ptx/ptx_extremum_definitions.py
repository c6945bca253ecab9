"""What PTX says about min and max; see ptx_definitions."""

from __future__ import annotations

from typing import Any

from ptx_definitions import Lane, definition, integer_lane, per_part, type_of
from ptx_float_definitions import Float
from ptx_numbers import FORMATS, NAN, compare, negative, sign_of

from gpu_ladder.ptx.table import TYPE_BITS, Form


@definition("min", "max")
def _extreme(form: Form, immediate: int) -> Lane:
    if type_of(form).removesuffix("x2") not in FORMATS:
        return integer_lane(form)
    wanted = 1 if form.row.opcode == "max" else -1
    propagate = "NaN" in form.chosen

    def lane(kind: str) -> Lane:
        numbers = Float(form, kind)

        def better(a: Any, b: Any) -> Any:
            if NAN in (a[0], b[0]):
                return (NAN,) if propagate or a[0] == b[0] else b if a[0] == NAN else a
            order = compare(a, b)
            if order == 0:  # -0 is below +0
                order = sign_of(b) - sign_of(a)
            return a if order == wanted or order == 0 else b

        def apply(*values: int) -> Any:
            read = [numbers.read(value) for value in values]
            if "abs" in form.text.split("."):
                magnitudes = [negative(v) if v[0] != NAN and sign_of(v) else v for v in read]
            else:
                magnitudes = read
            result = magnitudes[0]
            for value in magnitudes[1:]:
                result = better(result, value)
            if "xorsign" in form.text and result[0] != NAN:
                # The sign of a NaN counts too.
                top = TYPE_BITS[kind] - 1
                if (values[0] ^ values[1]) >> top & 1:
                    result = negative(result)
            return numbers.write(result)

        return apply

    return per_part(form, lane)
