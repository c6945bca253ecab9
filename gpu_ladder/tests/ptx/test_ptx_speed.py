"""Without checks the machine is fast enough for whole problems."""

from __future__ import annotations

import time

import numpy as np
from ptx_support import aligned, entry, ptx_module


def test_a_hundred_million_lanes_a_second() -> None:
    """A loop of arithmetic: 12 million instructions of one lane would take Python a minute."""
    lines = [
        ".reg .f32 %a<4>; .reg .b32 %i; .reg .pred %k; .reg .b64 %w; .reg .b32 %t;",
        "mov.f32 %a0, 0f3F800000; mov.f32 %a1, 0f3F000000; mov.f32 %a2, 0f00000000; mov.u32 %i, 0;",
        "LOOP: fma.rn.f32 %a2, %a2, %a1, %a0; add.f32 %a2, %a2, %a1; mul.f32 %a2, %a2, %a1;",
        "add.u32 %i, %i, 1; setp.lt.u32 %k, %i, 20000; @%k bra LOOP;",
        "mov.u32 %t, %tid.x; mul.wide.u32 %w, %t, 4; add.s64 %w, %p0, %w; st.global.f32 [%w], %a2;",
    ]
    kernel = ptx_module(entry(lines, params=1)).kernels["kernel"]
    out = aligned(np.zeros(128, np.float32))
    begin = time.perf_counter()
    report = kernel.launch((1,), (128,), [out], checks=False)
    seconds = time.perf_counter() - begin
    assert report.instructions > 4 * 6 * 20000
    assert np.isfinite(out).all()
    # A tenth of what one core of a desktop does, so that a busy machine passes too.
    assert 32 * report.instructions / seconds > 1e8
