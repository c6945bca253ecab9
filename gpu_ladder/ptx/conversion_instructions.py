"""The table's rows for comparisons, conversions and moves."""

from __future__ import annotations

from gpu_ladder.ptx.table import TYPE_BITS, Row

_ROUND = "{rn|rz|rm|rp}"
_SIGNED = "{eq|ne|lt|le|gt|ge}"
_UNSIGNED = "{eq|ne|lt|le|gt|ge|lo|ls|hi|hs}"
_FLOATING = "{eq|ne|lt|le|gt|ge|equ|neu|ltu|leu|gtu|geu|num|nan}"
_BYTE_INTEGERS = "u8|s8|u16|s16|u32|s32|u64|s64"


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


CONVERSION_ROWS: tuple[Row, ...] = (
    *_comparison_rows(),
    *_conversion_rows(),
    *_move_rows(),
)
