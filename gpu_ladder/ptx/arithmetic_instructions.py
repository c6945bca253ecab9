"""The table's rows for arithmetic and logic."""

from __future__ import annotations

from gpu_ladder.ptx.attributes import CARRY_IN
from gpu_ladder.ptx.table import Row

_INTEGERS = "{T:u16|s16|u32|s32|u64|s64}"
_ROUND = "{rn|rz|rm|rp}"
_HALVES = "{T:f16|f16x2}"
_BRAINS = "{T:bf16|bf16x2}"


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


ARITHMETIC_ROWS: tuple[Row, ...] = (
    *_integer_rows(),
    *_bit_rows(),
    *_float_rows(),
    *_half_rows(),
)
