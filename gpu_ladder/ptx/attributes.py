"""The bits that modifiers set in an instruction; engine/attributes.h has the same numbers."""

from __future__ import annotations

ROUNDING_BITS = {"rn": 0, "rz": 1, "rm": 2, "rp": 3, "rna": 4}
INTEGRAL = 1 << 3
NEGATED = 1 << 9
CARRY_OUT = 1 << 17
WRAP = 1 << 18
ALIGNED = WRAP
SHIFT_AMOUNT = 1 << 19
MODE_SHIFT = 20
WIDTH_SHIFT = 24
CARRY_IN = 1 << 27
ADDRESS32 = 1 << 9
TRANSPOSED = 1 << 10

# The engine's order: false with NaN, true with NaN, both numbers, any NaN.
_COMPARISONS = (
    ("eq",),
    ("ne",),
    ("lt", "lo"),
    ("le", "ls"),
    ("gt", "hi"),
    ("ge", "hs"),
    ("equ",),
    ("neu",),
    ("ltu",),
    ("leu",),
    ("gtu",),
    ("geu",),
    ("num",),
    ("nan",),
)

NUMBER: dict[str, int] = {
    **ROUNDING_BITS,
    "rni": INTEGRAL,
    "rzi": INTEGRAL | 1,
    "rmi": INTEGRAL | 2,
    "rpi": INTEGRAL | 3,
    "ftz": 1 << 4,
    "sat": 1 << 5,
    "NaN": 1 << 6,
    "xorsign.abs": 1 << 7,
    "relu": 1 << 8,
    "and": 1 << 10,
    "or": 2 << 10,
    "xor": 3 << 10,
    **{name: code << 12 for code, names in enumerate(_COMPARISONS) for name in names},
    "cc": CARRY_OUT,
    "wrap": WRAP,
    "clamp": 0,
    "shiftamt": SHIFT_AMOUNT,
    "abs": 1 << 28,
    "satfinite": 1 << 29,
    **{
        name: code << MODE_SHIFT
        for code, name in enumerate(("", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"))
        if name
    },
    **{name: code << MODE_SHIFT for code, name in enumerate(("up", "down", "bfly", "idx"))},
    **{name: code << MODE_SHIFT for code, name in enumerate(("all", "any", "uni", "ballot"))},
    **{
        name: code << MODE_SHIFT
        for code, name in enumerate(
            ("finite", "infinite", "number", "notanumber", "normal", "subnormal")
        )
    },
}

_SPACES = {"global": 1, "shared": 2, "local": 3, "const": 4, "param": 5}
SPACE_PARAMETER = _SPACES["param"]
SPACE_LOCAL = _SPACES["local"]
_ORDERS = {"weak": 0, "relaxed": 1, "acquire": 2, "release": 3, "acq_rel": 4, "volatile": 5}

MEMORY: dict[str, int] = {
    **_SPACES,
    "shared::cta": _SPACES["shared"],
    "shared::cluster": _SPACES["shared"],
    "param::entry": _SPACES["param"],
    "v2": 1 << 3,
    "v4": 3 << 3,
    "v8": 7 << 3,
    "x1": 0,
    "x2": 1 << 3,
    "x4": 3 << 3,
    **{name: order << 6 for name, order in _ORDERS.items()},
    "trans": TRANSPOSED,
    # Scopes: one block is resident at a time, so that each orders as much as the widest.
    "cta": 0,
    "cluster": 0,
    "gpu": 0,
    "sys": 0,
}
SPACE_MASK = 0x7

FAMILIES = {"number": NUMBER, "memory": MEMORY}
