"""What the machine does not know is an error that names the line; so is what does not fit."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from ptx_support import aligned, entry, ptx_module

from gpu_ladder.ptx import Module, PtxError, PtxNotImplementedError
from gpu_ladder.ptx.table import Row

HEAD = ".version 9.0\n.target sm_90\n.address_size 64\n"
REGISTERS = ".reg .b32 %r<4>; .reg .b64 %d<4>; .reg .pred %k<2>; .reg .b16 %h<2>;"

UNKNOWN = {
    "opcode": ("frobnicate.u32 %r0, %r1;", "unknown instruction 'frobnicate.u32'"),
    "modifier": ("add.sat.u32 %r0, %r1, %r2;", "no form of 'add'"),
    "type": ("popc.b16 %r0, %h0;", "no form of 'popc'"),
    "order of modifiers": ("add.ftz.rn.f32 %r0, %r1, %r2;", "no form of 'add'"),
    "too few operands": ("add.u32 %r0, %r1;", "do not fit"),
    "too many operands": ("mov.u32 %r0, %r1, %r2;", "do not fit"),
    "vector for a scalar": ("add.u32 {%r0}, %r1, %r2;", "do not fit"),
    "short vector": ("ld.global.v4.u32 {%r0, %r1}, [%d0];", "do not fit"),
    "width": ("add.u64 %d0, %d1, %r0;", "%r0 has 32 bits, but u64 is wanted"),
    "narrow destination": ("ld.global.u32 %h0, [%d0];", "%h0 has 16 bits"),
    "predicate for a number": ("add.u32 %r0, %r1, %k0;", "%k0 has 1 bits"),
    "register": ("add.u32 %r0, %r1, %r9;", "unknown register '%r9'"),
    "special register": ("mov.u32 %r0, %clock;", "unknown register '%clock'"),
    "label": ("bra NOWHERE;", "unknown label 'NOWHERE'"),
    "literal": ("mov.b16 %h0, 70000;", "70000 does not fit into 16 bits"),
    "float literal": ("mov.f32 %r0, 5;", "'5' is not a literal of type f32"),
    "address": ("ld.global.u32 %r0, [%h0];", "%h0 of 16 bits is no address"),
    "address syntax": ("ld.global.u32 %r0, [%d0*4];", "cannot read the address"),
    "directive": (".maxfrobs 3;", "not implemented: .maxfrobs 3"),
    "tensor core of sm_90": ("wgmma.fence.sync.aligned;", "not implemented: wgmma.fence"),
    "tensor core of sm_100": ("tcgen05.wait::ld.sync.aligned;", "not implemented: tcgen05"),
    "bulk copy": ("cp.async.bulk.commit_group;", "not implemented: cp.async.bulk"),
    "mbarrier": ("mbarrier.inval.b64 [%d0];", "not implemented: mbarrier"),
    "call of a register": ("call %d0, (), X;", "not implemented: a call through a register"),
    "copy size": ("cp.async.cg.shared.global [%r0], [%d0], 8;", "copies (16,) bytes, not 8"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_text_is_refused_with_its_line(name: str) -> None:
    line, message = UNKNOWN[name]
    with pytest.raises(PtxError) as caught:
        Module(HEAD + entry([REGISTERS, line]))
    assert message in str(caught.value)
    number = next(
        i for i, text in enumerate(entry([REGISTERS, line]).split("\n"), 4) if line in text
    )
    assert str(caught.value).startswith(f"PTX line {number}: ")
    assert caught.value.line == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "the text ends in the middle of a statement"),
        ("", "not a PTX module"),
        (HEAD + ".frob 3;", "unknown directive '.frob 3'"),
        (HEAD + ".entry k() .frobs 3 { ret; }", "unknown directive '.frobs 3'"),
        (HEAD + ".global .u31 x;", "cannot read the variable"),
        (HEAD + ".entry k() { .reg .b128 %x; ret; }", "cannot read the registers"),
        (HEAD + ".entry k() { ret }", "the text ends in the middle of a statement"),
        (HEAD.replace("64", "32"), "not implemented: addresses of 32 bits"),
        (
            HEAD + ".entry k() .reqnctapercluster 2 { ret; }",
            "not implemented: thread block clusters",
        ),
        (
            HEAD + ".func f() { call.uni f; ret; } .entry k() { call.uni f; ret; }",
            "not implemented: recursion: k -> f -> f",
        ),
        (HEAD + ".extern .func g; .entry k() { call.uni g; ret; }", "the external g"),
    ],
)
def test_modules_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(PtxError) as caught:
        Module(text)
    assert message in str(caught.value)


def test_not_implemented_is_told_apart() -> None:
    with pytest.raises(PtxNotImplementedError):
        Module(HEAD + entry(["tcgen05.fence::before_thread_sync;"]))


def test_a_table_with_a_modifier_of_no_effect_is_refused() -> None:
    from gpu_ladder.ptx.instructions import _check

    with pytest.raises(ValueError, match=r"'frob' of 'add\[.frob\].u32' has no effect"):
        _check((Row("add[.frob].u32", ">u32 u32 u32", "add.u32"),))


def test_launches_that_do_not_fit_are_refused() -> None:
    text = entry([REGISTERS, "ld.global.u32 %r0, [%p0]; st.global.u32 [%p1], %r0;"])
    module = ptx_module(text.replace(") {", ") .maxntid 64 {"))
    kernel = module.kernels["kernel"]
    data = aligned(np.zeros(4, np.int32))
    with pytest.raises(ValueError, match="takes 2 arguments, 1 were given"):
        kernel.launch((1,), (32,), [data])
    with pytest.raises(ValueError, match="4 bytes for a parameter of 8"):
        kernel.launch((1,), (32,), [data, ctypes.c_int(3)])
    with pytest.raises(ValueError, match="str for a parameter of type u64"):
        kernel.launch((1,), (32,), [data, "x"])
    with pytest.raises(ValueError, match=r"compiled with .maxntid \(64,\)"):
        kernel.launch((1,), (65,), [data, data])
    with pytest.raises(ValueError, match="a block of 2048 threads"):
        kernel.launch((1,), (2048,), [data, data])
    with pytest.raises(ValueError, match=r"grid \(0,\); one to three sizes"):
        kernel.launch((0,), (32,), [data, data])
    with pytest.raises(ValueError, match="order 'sideways'; accepted are forward, reverse, random"):
        kernel.launch((1,), (32,), [data, data], order="sideways")
    with pytest.raises(KeyError, match="no kernel \\['other'\\]; the module has \\['kernel'\\]"):
        Module(HEAD + text, entries=["other"])


def test_findings_can_be_raised() -> None:
    text = entry([REGISTERS, "st.global.u32 [%p0+16], %r0;"])
    kernel = ptx_module(text).kernels["kernel"]
    data = aligned(np.zeros(4, np.int32))
    report = kernel.launch((1,), (1,), [data, 0])
    with pytest.raises(RuntimeError, match=r"out_of_bounds: .*PTX line 9"):
        report.raise_on_findings()


def test_variables_keep_their_values_until_reset() -> None:
    text = entry(
        [
            f"{REGISTERS} mov.u64 %d0, counter; ld.global.u32 %r0, [%d0];",
            "add.u32 %r0, %r0, 1; st.global.u32 [counter], %r0;",
        ],
        params=0,
    )
    module = ptx_module(".global .align 4 .u32 counter = 5;\n" + text)
    for _ in range(3):
        module.kernels["kernel"].launch((1,), (1,), []).raise_on_findings()
    assert module.variable("counter").cast("I")[0] == 8
    module.reset_variables()
    assert module.variable("counter").cast("I")[0] == 5
    with pytest.raises(KeyError, match="no variable 'x'; there are \\['counter'\\]"):
        module.variable("x")


def test_barriers_that_cannot_be() -> None:
    for line in ("bar.sync 16;", "bar.sync 1, 40;", "bar.sync 1, 64;"):
        report = ptx_module(entry([line])).kernels["kernel"].launch((1,), (32,), [0, 0])
        assert report.kinds == {"divergent_barrier"}
        assert report.outcome == "trapped"


def test_warps_that_wait_for_one_another_in_vain() -> None:
    lines = [
        REGISTERS,
        "mov.u32 %r0, %tid.x; setp.lt.u32 %k0, %r0, 32;",
        "@%k0 bra FIRST; bar.sync 2, 64; bar.sync 1, 64; bra.uni DONE;",
        "FIRST: bar.sync 1, 64; bar.sync 2, 64; DONE:",
    ]
    for order in ("forward", "reverse", "random"):
        report = ptx_module(entry(lines)).kernels["kernel"].launch((1,), (64,), [0, 0], order=order)
        assert report.outcome == "stuck"
        assert report.kinds == {"deadlock"}


def test_a_barrier_in_half_a_warp() -> None:
    lines = [
        REGISTERS,
        "mov.u32 %r0, %laneid; setp.lt.u32 %k0, %r0, 16; @%k0 bra FIRST;",
        "bar.warp.sync 0xffffffff; bra.uni DONE; FIRST: bar.sync 0; DONE:",
    ]
    report = ptx_module(entry(lines)).kernels["kernel"].launch((1,), (32,), [0, 0])
    assert report.outcome == "stuck"
    assert report.kinds == {"divergent_barrier", "divergent_collective"}
    assert any("lanes 0-15 of warp 0" in finding.message for finding in report.findings)
