"""Lines of PTX run on one block, and the forms of an opcode that such tests go through."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from ptx_support import aligned, entry, ptx_module

from gpu_ladder.ptx import Report
from gpu_ladder.ptx.instructions import ROWS
from gpu_ladder.ptx.table import Form

FULL = 0xFFFFFFFF
SETUP = [
    ".reg .b32 %t, %lane, %r<32>; .reg .b64 %o, %q, %w<8>; .reg .pred %f, %k<4>;",
    "mov.u32 %t, %tid.x; mov.u32 %lane, %laneid; mul.wide.u32 %o, %t, 4; add.s64 %q, %p0, %o;",
    "add.s64 %o, %p1, %o;",
]


def forms(opcode: str, *, start: str = "") -> list[Form]:
    found = [form for row in ROWS if row.opcode == opcode for form in row.forms()]
    return [form for form in found if form.text.startswith(start)]


def texts(opcode: str, *, start: str = "") -> list[str]:
    return [form.text for form in forms(opcode, start=start)]


def execute(
    lines: Sequence[str],
    data: Sequence[int] | np.ndarray,
    results: int,
    threads: int = 32,
    order: str = "forward",
    clean: bool = True,
    declarations: str = "",
) -> tuple[np.ndarray, Report]:
    """Runs lines on one block: %q points to the thread's word of `data`, %o to its first result."""
    out = aligned(np.zeros((max(results, 1), threads), np.uint32))
    values = aligned(np.asarray(data, dtype=np.uint32))
    module = ptx_module(declarations + entry([*SETUP, *lines]))
    report = module.kernels["kernel"].launch((1,), (threads,), [values, out], order=order)
    if clean:
        assert report.findings == ()
        assert report.outcome == "finished"
    return out, report


def keep(register: str, index: int, threads: int = 32) -> str:
    place = f"[%o+{index * threads * 4}]"
    if register.startswith("%k"):
        return f"selp.u32 %r31, 1, 0, {register}; st.global.u32 {place}, %r31;"
    return f"st.global.b32 {place}, {register};"


def words(count: int, seed: int = 1) -> list[int]:
    source = random.Random(seed)
    return [source.getrandbits(32) for _ in range(count)]


# Opcodes whose forms all run in tests of their own, lane by lane.
BY_HAND = frozenset(
    (
        *("shfl", "vote", "match", "redux", "activemask", "elect", "bar", "barrier"),
        *("bra", "brx", "call", "ret", "exit", "trap", "nanosleep", "griddepcontrol"),
        *("mma", "ldmatrix", "stmatrix", "movmatrix", "cvta", "isspacep", "mapa", "cp"),
        *("prefetch", "prefetchu", "createpolicy", "fence", "membar"),
    )
)
