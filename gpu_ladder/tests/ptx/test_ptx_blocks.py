"""Barriers, branches, calls and fences: every form."""

from __future__ import annotations

import numpy as np
import pytest
from ptx_blocks import execute, forms, keep, texts, words
from ptx_support import ORDERS, aligned, entry, ptx_module


@pytest.mark.parametrize("name", texts("bar") + texts("barrier"))
@pytest.mark.parametrize("order", ORDERS)
def test_barriers(name: str, order: str) -> None:
    if name == "bar.warp.sync":
        lines = [
            ".shared .b32 line[32]; mov.u64 %w0, line; mul.wide.u32 %w1, %t, 4;",
            "add.s64 %w2, %w0, %w1;",
            f"st.shared.u32 [%w2], %t; {name} -1; xor.b32 %r0, %t, 31; mul.wide.u32 %w1, %r0, 4;",
            "add.s64 %w2, %w0, %w1; ld.shared.u32 %r1, [%w2];",
            keep("%r1", 0),
        ]
        out, _ = execute(lines, words(32), 1, order=order)
        assert out[0].tolist() == [lane ^ 31 for lane in range(32)]
        return
    threads = 128
    counts = [form.row.arguments.split() for form in forms(name.split(".")[0], start=name)]
    with_count = any(len([a for a in one if a == "u32"]) > 1 for one in counts)
    for count in ("", ", 128") if with_count and "arrive" not in name else ("",):
        wait = f"{name} 3{count};"
        if ".red." in name:
            result = "%r1" if "popc" in name else "%k1"
            wait = f"setp.lt.u32 %k0, %t, 100; {name} {result}, 3{count}, %k0;"
        elif "arrive" in name:
            # Three warps only announce themselves; the fourth waits for them.
            full = name.replace("arrive", "sync")
            wait = f"setp.lt.u32 %k0, %t, 96; @%k0 bra ARRIVE; {full} 3, 128; bra.uni DONE;"
            wait += f"ARRIVE: {name} 3, 128; DONE:"
        lines = [
            ".shared .b32 line[128]; mov.u64 %w0, line; mul.wide.u32 %w1, %t, 4;",
            "add.s64 %w2, %w0, %w1; st.shared.u32 [%w2], %t; mov.b32 %r1, 3;",
            "setp.eq.u32 %k1, 0, 0;",
            wait,
            "sub.u32 %r0, 127, %t; mul.wide.u32 %w1, %r0, 4;",
            "add.s64 %w2, %w0, %w1; mov.b32 %r2, 0;",
            "setp.ge.u32 %k2, %t, 96;" if "arrive" in name else "setp.ge.u32 %k2, %t, 0;",
            "@%k2 ld.shared.u32 %r2, [%w2];",
            keep("%r2", 0, threads),
            keep("%r1", 1, threads),
            keep("%k1", 2, threads),
        ]
        out, _ = execute(lines, words(threads), 3, threads, order)
        waiting = range(96, 128) if "arrive" in name else range(128)
        assert [out[0, thread] for thread in waiting] == [127 - thread for thread in waiting]
        if ".popc" in name:
            assert set(out[1].tolist()) == {100}
        elif ".red." in name:
            assert set(out[2].tolist()) == {int(".or" in name)}


def test_control_flow() -> None:
    lines = [
        "mov.b32 %r1, 0; rem.u32 %r0, %t, 4;",
        "TABLE: .branchtargets A, B, C, D;",
        "setp.lt.u32 %k0, %t, 16;",
        "@%k0 brx.idx %r0, TABLE;",
        "brx.idx.uni 2, TABLE;",
        "A: add.u32 %r1, %r1, 100; bra.uni END;",
        "B: add.u32 %r1, %r1, 200; bra END;",
        "C: nanosleep.u32 20; add.u32 %r1, %r1, 300; bra END;",
        "D: add.u32 %r1, %r1, 1; setp.lt.u32 %k1, %r1, %t; @%k1 bra D;",
        "END: griddepcontrol.wait; griddepcontrol.launch_dependents;",
        keep("%r1", 0),
        "setp.eq.u32 %k0, %t, 5; @%k0 exit;",
        keep("%t", 1),
    ]
    out, _ = execute(lines, words(32), 2)
    chosen = {0: 100, 1: 200, 2: 300}
    expected = [chosen.get(t % 4, max(t, 1)) if t < 16 else 300 for t in range(32)]
    assert out[0].tolist() == expected
    assert out[1].tolist() == [0 if t == 5 else t for t in range(32)]


@pytest.mark.parametrize("call", texts("call"))
@pytest.mark.parametrize("leave", texts("ret"))
def test_calls(call: str, leave: str) -> None:
    function = (
        ".func (.param .b32 result) twice(.param .b32 value) {\n .reg .b32 %a; .reg .pred %even;\n"
        " ld.param.b32 %a, [value]; and.b32 %a, %a, 1; setp.eq.u32 %even, %a, 0;\n"
        " ld.param.b32 %a, [value]; shl.b32 %a, %a, 1; st.param.b32 [result], %a;\n"
        f" @%even {leave}; add.u32 %a, %a, 1; st.param.b32 [result], %a; {leave}; }}\n"
    )
    lines = [
        "setp.lt.u32 %k0, %t, 20; mov.b32 %r1, 7;",
        "{ .param .b32 argument; .param .b32 back; st.param.b32 [argument], %t;",
        f"@%k0 {call} (back), twice, (argument); @%k0 ld.param.b32 %r1, [back]; }}",
        keep("%r1", 0),
    ]
    out, _ = execute(lines, words(32), 1, declarations=function)
    assert out[0].tolist() == [2 * t + t % 2 if t < 20 else 7 for t in range(32)]


def test_trap() -> None:
    _, report = execute(["setp.eq.u32 %k0, %t, 3; @%k0 trap;"], words(32), 1, clean=False)
    assert report.outcome == "trapped"


FENCES = texts("fence") + texts("membar")


@pytest.mark.parametrize("fence", [*FENCES, ""])
def test_fences_order_blocks(fence: str) -> None:
    """Each block writes its part and takes a ticket; the last one reads all parts."""
    stop = f"{fence};" if fence else ""
    text = entry(
        [
            ".reg .b32 %r<8>; .reg .b64 %w<4>; .reg .pred %k;",
            "mov.u32 %r0, %ctaid.x; mul.wide.u32 %w0, %r0, 4; add.s64 %w1, %p0, %w0;",
            f"st.global.u32 [%w1], %r0; {stop} atom.global.add.u32 %r1, [%p1], 1; {stop}",
            "mov.u32 %r2, %nctaid.x; add.u32 %r2, %r2, -1; setp.ne.u32 %k, %r1, %r2; @%k exit;",
            "ld.global.u32 %r3, [%p0]; ld.global.u32 %r4, [%p0+4]; ld.global.u32 %r5, [%p0+8];",
            "add.u32 %r3, %r3, %r4; add.u32 %r3, %r3, %r5; st.global.u32 [%p1+4], %r3;",
        ]
    )
    kernel = ptx_module(text).kernels["kernel"]
    for order in ORDERS:
        parts, ticket = aligned(np.zeros(3, np.uint32)), aligned(np.zeros(2, np.uint32))
        report = kernel.launch((3,), (1,), [parts, ticket], order=order)
        one_way = fence.startswith(("fence.acquire", "fence.release"))
        if fence:
            assert one_way or report.kinds == set()
        else:
            assert report.kinds == {"race"}
        assert ticket.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("write", "read", "clean"),
    [("release", "acquire", True), ("relaxed", "relaxed", False), ("release", "relaxed", False)],
)
def test_message_passing(write: str, read: str, clean: bool) -> None:
    text = entry(
        [
            ".reg .b32 %r<8>; .reg .pred %k; mov.u32 %r0, %ctaid.x; setp.eq.u32 %k, %r0, 0;",
            f"@%k st.global.u32 [%p0], 42; @%k st.{write}.gpu.global.u32 [%p0+4], 1; @%k exit;",
            f"WAIT: ld.{read}.gpu.global.u32 %r1, [%p0+4]; setp.eq.u32 %k, %r1, 0; @%k bra WAIT;",
            "ld.global.u32 %r2, [%p0]; st.global.u32 [%p1], %r2;",
        ]
    )
    data, out = aligned(np.zeros(2, np.uint32)), aligned(np.zeros(1, np.uint32))
    report = ptx_module(text).kernels["kernel"].launch((2,), (1,), [data, out])
    assert out[0] == 42
    assert report.kinds == (set() if clean else {"race"})
