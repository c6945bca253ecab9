"""Launches through the hook of an emulated CUDA module."""

from __future__ import annotations

import ctypes

import numpy as np
from ptx_support import aligned, entry, ptx_module

from gpu_ladder.ptx import Buffer, LaunchHook

HOOK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_size_t,
)
LINES = [
    ".reg .b32 %r<4>; .reg .b64 %w<3>; mov.u32 %r0, %tid.x; mul.wide.u32 %w0, %r0, 4;",
    "add.s64 %w1, %p0, %w0; ld.global.u32 %r1, [%w1]; add.u32 %r1, %r1, 1;",
    "add.s64 %w2, %p1, %w0; st.global.u32 [%w2], %r1;",
]


def call(hook: LaunchHook, name: bytes, threads: int, arrays: list[np.ndarray]) -> int:
    addresses = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    pointers = (ctypes.c_void_p * 2)(*(ctypes.addressof(one) for one in addresses))
    return HOOK(hook)(
        name, (ctypes.c_uint * 3)(1, 1, 1), (ctypes.c_uint * 3)(threads, 1, 1), pointers, 0
    )


def test_launches_run_the_kernel_of_the_same_name() -> None:
    values, out = aligned(np.arange(32), np.uint32), aligned(np.zeros(32, np.uint32))
    hook = LaunchHook([ptx_module(entry(LINES))], order="reverse")
    assert call(hook, b"kernel", 32, [values, out]) == 0
    assert (out == values + 1).all()
    assert [name for name, _ in hook.reports] == ["kernel"]
    assert hook.error is None


def test_unknown_kernels_and_bad_launches_are_cuda_errors() -> None:
    values, out = aligned(np.arange(32), np.uint32), aligned(np.zeros(32, np.uint32))
    hook = LaunchHook([ptx_module(entry(LINES))])
    assert call(hook, b"other", 32, [values, out]) == 98
    assert "no kernel 'other'" in str(hook.error)
    assert call(hook, b"kernel", 2000, [values, out]) == 719
    assert "a block of 2000 threads" in str(hook.error)


def test_checks_need_the_buffers() -> None:
    values, out = aligned(np.arange(32), np.uint32), aligned(np.zeros(31, np.uint32))
    buffers = [
        Buffer("values", values.ctypes.data, values.nbytes),
        Buffer("out", out.ctypes.data, out.nbytes, initialised=False),
    ]
    hook = LaunchHook([ptx_module(entry(LINES))], checks=True, buffers=buffers)
    assert call(hook, b"kernel", 31, [values, out]) == 0
    assert hook.findings == []
    call(hook, b"kernel", 32, [values, out])
    assert [finding.kind for _, finding in hook.findings] == ["out_of_bounds"]
    assert "out" in hook.findings[0][1].message
