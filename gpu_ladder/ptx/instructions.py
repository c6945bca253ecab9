"""The table of every instruction and modifier that the machine knows: arithmetic.

Whatever no row allows is an error. The rows for memory and for warps are in
`memory_instructions` and `warp_instructions`; `ROWS` is all of them.
"""

from __future__ import annotations

from gpu_ladder.ptx.attributes import CARRY_IN, FAMILIES
from gpu_ladder.ptx.memory_instructions import MEMORY_ROWS
from gpu_ladder.ptx.table import TYPE_BITS, Row
from gpu_ladder.ptx.warp_instructions import WARP_ROWS

_INTEGERS = "{T:u16|s16|u32|s32|u64|s64}"
_ROUND = "{rn|rz|rm|rp}"
_HALVES = "{T:f16|f16x2}"
_BRAINS = "{T:bf16|bf16x2}"
_SIGNED = "{eq|ne|lt|le|gt|ge}"
_UNSIGNED = "{eq|ne|lt|le|gt|ge|lo|ls|hi|hs}"
_FLOATING = "{eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan}"
_BYTE_INTEGERS = "u8|s8|u16|s16|u32|s32|u64|s64"


def _integer_rows() -> list[Row]:
    rows = [
        Row(f"{name}.{_INTEGERS}", ">{T} {T} {T}", name + ".{T}")
        for name in ("add", "sub", "div", "rem", "min", "max")
    ]
    for name in ("add", "sub"):
        rows += [
            Row(f"{name}.sat.s32", ">s32 s32 s32", f"{name}.sat.s32"),
            Row(f"{name}.cc.{{T:u32|s32|u64|s64}}", ">{T} {T} {T}", name + ".carry.{T}"),
            Row(
                f"{name}c[.cc].{{T:u32|s32|u64|s64}}",
                ">{T} {T} {T}",
                name + ".carry.{T}",
                attributes=CARRY_IN,
            ),
        ]
    for name in ("add", "min", "max"):
        rows.append(Row(f"{name}.{{T:u16x2|s16x2}}", ">{T} {T} {T}", name + ".{T}", since="90"))
    for name in ("min", "max"):
        rows.append(
            Row(f"{name}.relu.{{T:s16x2|s32}}", ">{T} {T} {T}", name + ".relu.{T}", since="90")
        )
    rows += [
        Row(f"mul.{{H:lo|hi}}.{_INTEGERS}", ">{T} {T} {T}", "mul.{H}.{T}"),
        Row("mul.wide.{T:u16|s16|u32|s32}", ">{T_wide} {T} {T}", "mul.wide.{T}"),
        Row(f"mad.{{H:lo|hi}}.{_INTEGERS}", ">{T} {T} {T} {T}", "mad.{H}.{T}"),
        Row("mad.wide.{T:u16|s16|u32|s32}", ">{T_wide} {T} {T} {T_wide}", "mad.wide.{T}"),
        Row("mad.hi.sat.s32", ">s32 s32 s32 s32", "mad.hi.sat.s32"),
        Row("mad.{H:lo|hi}.cc.{T:u32|s32|u64|s64}", ">{T} {T} {T} {T}", "mad.{H}.carry.{T}"),
        Row(
            "madc.{H:lo|hi}[.cc].{T:u32|s32|u64|s64}",
            ">{T} {T} {T} {T}",
            "mad.{H}.carry.{T}",
            attributes=CARRY_IN,
        ),
        Row("mul24.{H:lo|hi}.{T:u32|s32}", ">{T} {T} {T}", "mul24.{H}.{T}"),
        Row("mad24.{H:lo|hi}.{T:u32|s32}", ">{T} {T} {T} {T}", "mad24.{H}.{T}"),
        Row(f"sad.{_INTEGERS}", ">{T} {T} {T} {T}", "sad.{T}"),
        Row("abs.{T:s16|s32|s64}", ">{T} {T}", "abs.{T}"),
        Row("neg.{T:s16|s32|s64}", ">{T} {T}", "neg.{T}"),
        Row("dp4a.{A:u32|s32}.{B:u32|s32}", ">{A} {A} {B} {A}", "dp4a.{A}.{B}"),
    ]
    return rows


def _bit_rows() -> list[Row]:
    rows = [
        Row(f"{name}.{{T:b16|b32|b64}}", ">{T} {T} {T}", name + ".{T}")
        for name in ("and", "or", "xor")
    ]
    rows += [
        Row(f"{name}.pred", ">pred pred pred", f"{name}.pred", attributes=0)
        for name in ("and", "or", "xor")
    ]
    rows += [
        Row("not.{T:b16|b32|b64}", ">{T} {T}", "not.{T}"),
        Row("not.pred", ">pred pred", "not.pred"),
        Row("cnot.{T:b16|b32|b64}", ">{T} {T}", "cnot.{T}"),
        Row("shl.{T:b16|b32|b64}", ">{T} {T} u32", "shl.{T}"),
        Row("shr.{T:b16|b32|b64|u16|u32|u64|s16|s32|s64}", ">{T} {T} u32", "shr.{T_logic}"),
        Row("shf.{H:l|r}.{clamp|wrap}.b32", ">b32 b32 b32 u32", "shf.{H}"),
        Row("popc.{T:b32|b64}", ">u32 {T}", "popc.{T}"),
        Row("clz.{T:b32|b64}", ">u32 {T}", "clz.{T}"),
        Row("bfind[.shiftamt].{T:u32|s32|u64|s64}", ">u32 {T}", "bfind.{T}"),
        Row("brev.{T:b32|b64}", ">{T} {T}", "brev.{T}"),
        Row("bfe.{T:u32|s32|u64|s64}", ">{T} {T} u32 u32", "bfe.{T}"),
        Row("bfi.{T:b32|b64}", ">{T} {T} {T} u32 u32", "bfi.{T}"),
        Row("prmt.b32[.{f4e|b4e|rc8|ecl|ecr|rc16}]", ">b32 b32 b32 b32", "prmt.b32"),
        Row("lop3.b32", ">b32 b32 b32 b32 #", "lop3.b32"),
    ]
    return rows


def _float_rows() -> list[Row]:
    rows = []
    for name in ("add", "sub", "mul"):
        rows += [
            Row(f"{name}[.{_ROUND}][.ftz][.sat].f32", ">f32 f32 f32", f"{name}.f32"),
            Row(f"{name}[.{_ROUND}].f64", ">f64 f64 f64", f"{name}.f64"),
        ]
    for name in ("fma", "mad"):
        rows += [
            Row(f"{name}.{_ROUND}[.ftz][.sat].f32", ">f32 f32 f32 f32", "fma.f32"),
            Row(f"{name}.{_ROUND}.f64", ">f64 f64 f64 f64", "fma.f64"),
        ]
    rows += [
        Row("div.{approx|full}[.ftz].f32", ">f32 f32 f32", "div.f32"),
        Row(f"div.{_ROUND}[.ftz].f32", ">f32 f32 f32", "div.f32"),
        Row(f"div.{_ROUND}.f64", ">f64 f64 f64", "div.f64"),
    ]
    for name in ("rcp", "sqrt"):
        rows += [
            Row(f"{name}.approx[.ftz].f32", ">f32 f32", f"{name}.f32"),
            Row(f"{name}.{_ROUND}[.ftz].f32", ">f32 f32", f"{name}.f32"),
            Row(f"{name}.{_ROUND}.f64", ">f64 f64", f"{name}.f64"),
        ]
    rows += [
        Row("rcp.approx.ftz.f64", ">f64 f64", "rcp.f64", attributes=1 << 4),
        Row("rsqrt.approx[.ftz].{T:f32|f64}", ">{T} {T}", "rsqrt.{T}"),
        Row("tanh.approx.{T:f32|f16|f16x2}", ">{T} {T}", "tanh.{T}"),
        Row(f"tanh.approx.{_BRAINS}", ">{T} {T}", "tanh.{T}", since="90"),
        Row(f"ex2.approx.{_HALVES}", ">{T} {T}", "ex2.{T}"),
        Row(f"ex2.approx.ftz.{_BRAINS}", ">{T} {T}", "ex2.{T}", since="90"),
        Row("copysign.{T:f32|f64}", ">{T} {T} {T}", "copysign.{T}"),
        Row(
            "testp.{finite|infinite|number|notanumber|normal|subnormal}.{T:f32|f64}",
            ">pred {T}",
            "testp.{T}",
        ),
    ]
    rows += [
        Row(f"{name}.approx[.ftz].f32", ">f32 f32", f"{name}.f32")
        for name in ("sin", "cos", "lg2", "ex2")
    ]
    for name in ("abs", "neg"):
        rows += [
            Row(f"{name}[.ftz].f32", ">f32 f32", f"{name}.f32"),
            Row(f"{name}.f64", ">f64 f64", f"{name}.f64"),
            Row(f"{name}[.ftz].{_HALVES}", ">{T} {T}", name + ".{T}"),
            Row(f"{name}.{_BRAINS}", ">{T} {T}", name + ".{T}"),
        ]
    for name in ("min", "max"):
        rows += [
            Row(f"{name}[.ftz][.NaN].f32", ">f32 f32 f32", f"{name}.f32"),
            Row(f"{name}[.ftz][.NaN].{{xorsign.abs}}.f32", ">f32 f32 f32", f"{name}.f32", "86"),
            Row(f"{name}[.ftz][.NaN][.abs].f32", ">f32 f32 f32 f32", f"{name}.f32", "100"),
            Row(f"{name}.f64", ">f64 f64 f64", f"{name}.f64"),
            Row(f"{name}[.ftz][.NaN].{_HALVES}", ">{T} {T} {T}", name + ".{T}"),
            Row(f"{name}[.NaN].{_BRAINS}", ">{T} {T} {T}", name + ".{T}"),
            Row(
                f"{name}[.ftz][.NaN].{{xorsign.abs}}.{_HALVES}", ">{T} {T} {T}", name + ".{T}", "86"
            ),
            Row(f"{name}[.NaN].{{xorsign.abs}}.{_BRAINS}", ">{T} {T} {T}", name + ".{T}", "86"),
        ]
    return rows


def _half_rows() -> list[Row]:
    rows = []
    for name in ("add", "sub", "mul"):
        rows += [
            Row(f"{name}[.rn][.ftz][.sat].{_HALVES}", ">{T} {T} {T}", name + ".{T}"),
            Row(f"{name}[.rn].{_BRAINS}", ">{T} {T} {T}", name + ".{T}", since="90"),
            Row(f"{name}[.{_ROUND}][.ftz].f32x2", ">f32x2 f32x2 f32x2", f"{name}.f32x2", "100"),
        ]
    for name in ("add", "sub"):
        rows.append(
            Row(
                f"{name}[.{_ROUND}][.sat].f32.{{A:f16|bf16}}",
                ">f32 {A} f32",
                name + ".f32.{A}",
                since="100",
            )
        )
    rows += [
        Row(f"fma.rn[.ftz][.sat].{_HALVES}", ">{T} {T} {T} {T}", "fma.{T}"),
        Row(f"fma.rn[.ftz].relu.{_HALVES}", ">{T} {T} {T} {T}", "fma.{T}", attributes=1 << 8),
        Row(f"fma.rn[.relu].{_BRAINS}", ">{T} {T} {T} {T}", "fma.{T}"),
        Row(f"fma.{_ROUND}[.ftz].f32x2", ">f32x2 f32x2 f32x2 f32x2", "fma.f32x2", "100"),
        Row(f"fma.{_ROUND}[.sat].f32.{{A:f16|bf16}}", ">f32 {A} {A} f32", "fma.f32.{A}", "100"),
    ]
    return rows


def _comparison_rows() -> list[Row]:
    families = [
        (_SIGNED, "{T:s16|s32|s64}", "", "80"),
        (_UNSIGNED, "{T:u16|u32|u64}", "", "80"),
        ("{eq|ne}", "{T:b16|b32|b64}", "", "80"),
        (_FLOATING, "{T:f32}", "[.ftz]", "80"),
        (_FLOATING, "{T:f64}", "", "80"),
    ]
    halves = [(_FLOATING, "{T:f16}", "[.ftz]", "80"), (_FLOATING, "{T:bf16}", "", "90")]
    rows = []
    for comparison, types, flush, since in families + halves:
        # Comparisons of halves have no second result.
        result = ">pred _" if since == "90" or "f16" in types else ">pred|p"
        rows += [
            Row(
                f"setp.{comparison}{flush}.{types}",
                f"{result} {{T}} {{T}}",
                "setp.{T_number}",
                since,
            ),
            Row(
                f"setp.{comparison}.{{and|or|xor}}{flush}.{types}",
                f"{result} {{T}} {{T}} !pred",
                "setp.{T_number}",
                since,
            ),
        ]
    for comparison, types, flush, since in families:
        rows += [
            Row(
                f"set.{comparison}{flush}.{{D:u32|s32|f32}}.{types}",
                ">{D} {T} {T}",
                "set.{D_number}.{T_number}",
                since,
                encode="set",
            ),
            Row(
                f"set.{comparison}.{{and|or|xor}}{flush}.{{D:u32|s32|f32}}.{types}",
                ">{D} {T} {T} !pred",
                "set.{D_number}.{T_number}",
                since,
                encode="set",
            ),
        ]
    any_type = "{T:b16|b32|b64|u16|u32|u64|s16|s32|s64|f32|f64}"
    rows += [
        Row(f"selp.{any_type}", ">{T} {T} {T} pred", "selp.{T_plain}"),
        Row(f"slct.{any_type}.s32", ">{T} {T} {T} s32", "slct.{T_plain}.s32"),
        Row(f"slct[.ftz].{any_type}.f32", ">{T} {T} {T} f32", "slct.{T_plain}.f32"),
    ]
    return rows


def _holds(destination: str, source: str) -> bool:
    """Whether every number of the source type is one of the destination's: nothing to clamp."""
    to, size = destination[0], TYPE_BITS[destination]
    other, other_size = source[0], TYPE_BITS[source]
    return (to == other and size >= other_size) or (to == "s" and size > other_size)


def _conversion_rows() -> list[Row]:
    integers = _BYTE_INTEGERS
    wide = integers.removeprefix("u8|s8|")
    name = "cvt.{D}.{S}"
    both = ">{D}+ {S}"
    rows = [
        Row(f"cvt.{{D:{integers}}}.{{S:{integers}}}", ">{D}+ {S}+", name, encode="integers"),
        *(
            Row(f"cvt.sat.{{D:{to}}}.{{S:{sources}}}", ">{D}+ {S}+", name, encode="integers")
            for to in integers.split("|")
            if (sources := "|".join(one for one in integers.split("|") if not _holds(to, one)))
        ),
        Row(
            f"cvt.{{rni|rzi|rmi|rpi}}[.ftz][.sat].{{D:{integers}}}.{{S:f32}}",
            both,
            name,
            encode="wide",
        ),
        Row(
            f"cvt.{{rni|rzi|rmi|rpi}}[.sat].{{D:{integers}}}.{{S:f16|f64}}",
            both,
            name,
            encode="wide",
        ),
        Row(f"cvt.{{rni|rzi|rmi|rpi}}.{{D:{wide}}}.{{S:bf16}}", both, name, "90", encode="wide"),
        Row(
            f"cvt.{_ROUND}[.sat].{{D:f16|f32|f64}}.{{S:{integers}}}",
            ">{D} {S}+",
            name,
            encode="integers",
        ),
        Row(f"cvt.{_ROUND}.{{D:bf16}}.{{S:{wide}}}", ">{D} {S}+", name, "90", encode="integers"),
        Row("cvt[.ftz][.sat].{D:f64}.{S:f32}", ">{D} {S}", name),
        Row(f"cvt.{_ROUND}[.ftz][.sat].{{D:f32}}.{{S:f64}}", ">{D} {S}", name),
        Row("cvt[.ftz][.sat].{D:f32}.{S:f16}", ">{D} {S}", name),
        Row(f"cvt.{_ROUND}[.ftz][.sat].{{D:f16}}.{{S:f32}}", ">{D} {S}", name),
        Row("cvt.{rn|rz}.relu.{D:f16}.{S:f32}", ">{D} {S}", name, attributes=1 << 8),
        Row("cvt[.sat].{D:f64}.{S:f16}", ">{D} {S}", name),
        Row(f"cvt.{_ROUND}[.sat].{{D:f16}}.{{S:f64}}", ">{D} {S}", name),
        Row("cvt[.{rni|rzi|rmi|rpi}][.ftz][.sat].{D:f32}.{S:f32}", ">{D} {S}", name),
        Row("cvt[.{rni|rzi|rmi|rpi}][.sat].{D:f64}.{S:f64}", ">{D} {S}", name),
        Row("cvt[.{rni|rzi|rmi|rpi}][.sat].{D:f16}.{S:f16}", ">{D} {S}", name),
        Row("cvt.{D:f32}.{S:bf16}", ">{D} {S}", name),
        Row("cvt.{rn|rz}[.relu].{D:bf16}.{S:f32}", ">{D} {S}", name),
        Row("cvt.{rm|rp}.{D:bf16}.{S:f32}", ">{D} {S}", name, "90"),
        Row("cvt.{D:f64}.{S:bf16}", ">{D} {S}", name, "90"),
        Row(f"cvt.{_ROUND}.{{D:bf16}}.{{S:f16|f64}}", ">{D} {S}", name, "90"),
        Row(f"cvt.{_ROUND}.{{D:f16}}.{{S:bf16}}", ">{D} {S}", name, "90"),
        Row("cvt.{rni|rzi|rmi|rpi}.{D:bf16}.{S:bf16}", ">{D} {S}", name, "90"),
        Row("cvt.{rn|rz}[.relu].{D:f16x2|bf16x2}.f32", ">{D} f32 f32", "cvt.{D}.f32"),
        Row("cvt.rna.tf32.f32", ">b32 f32", "cvt.tf32.f32", attributes=4),
        Row("cvt.{rn|rz}[.relu].tf32.f32", ">b32 f32", "cvt.tf32.f32", "90"),
    ]
    return rows


def _move_rows() -> list[Row]:
    return [
        Row("mov.{T:b16|u16|s16|b32|u32|s32|f32|b64|u64|s64|f64}", ">{T} {T}", "mov.{T_bits}"),
        Row("mov.pred", ">pred pred", "mov.pred"),
        Row("mov.b32", ">b32 2*b16", "pack.2x16"),
        Row("mov.b32", ">2*b16 b32", "unpack.2x16"),
        Row("mov.b64", ">b64 2*b32", "pack.2x32"),
        Row("mov.b64", ">2*b32 b64", "unpack.2x32"),
        Row("mov.b64", ">b64 4*b16", "pack.4x16"),
        Row("mov.b64", ">4*b16 b64", "unpack.4x16"),
    ]


ROWS: tuple[Row, ...] = (
    *_integer_rows(),
    *_bit_rows(),
    *_float_rows(),
    *_half_rows(),
    *_comparison_rows(),
    *_conversion_rows(),
    *_move_rows(),
    *MEMORY_ROWS,
    *WARP_ROWS,
)

# Modifiers that change no result of the machine.
NEUTRAL = frozenset(
    (
        # Approximate instructions are evaluated more precisely than they have to be.
        *("approx", "full", "uni"),
        # One block is resident at a time, so that all scopes and all fences are the widest.
        *("gl", "sc", "cta"),
        # What is not even begun needs no place in a cache.
        *("L1", "L2", "L2::evict_first", "L2::evict_last", "L2::evict_normal"),
        *("L2::evict_unchanged", "launch_dependents", "wait", "shared::cluster"),
    )
)


def _check(rows: tuple[Row, ...]) -> None:
    """Refuses a table in which a choice of modifiers would make no difference by mistake."""
    for row in rows:
        known = FAMILIES[row.family]
        for slot in row.slots:
            free = slot.optional or len(slot.choices) > 1
            for choice in slot.choices:
                if not (
                    not free
                    or slot.hint
                    or slot.name
                    or choice in NEUTRAL
                    or choice in TYPE_BITS
                    or choice in known
                ):
                    raise ValueError(
                        f"instruction table: {choice!r} of {row.syntax!r} has no effect"
                    )


_check(ROWS)

# Instructions that exist, and that no row will ever take by accident: what their names begin with.
KNOWN_MISSING: tuple[str, ...] = (
    "wgmma.",
    "tcgen05.",
    "cp.async.bulk",
    "cp.async.mbarrier",
    "cp.reduce.async",
    "mbarrier.",
    "tensormap.",
    "multimem.",
    "fence.proxy",
    "fence.mbarrier_init",
    "barrier.cluster",
    "setmaxnreg.",
    "clusterlaunchcontrol.",
    "wmma.",
    "tex.",
    "tld4.",
    "suld.",
    "sust.",
    "sured.",
)
