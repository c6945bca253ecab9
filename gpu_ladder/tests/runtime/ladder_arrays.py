"""Arrays as a device has them, and calls of kernels with them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gpu_ladder.emulated import SCHEDULES, Emulated

ORDERS = [
    (schedule, seed) for schedule in SCHEDULES for seed in ([0, 1] if schedule == "random" else [0])
]


def aligned(count: int, dtype: DTypeLike = np.float32, offset: int = 0) -> NDArray[Any]:
    """Zeros at an address that is a multiple of 256, as the device allocates, or `offset` after."""
    size = count * np.dtype(dtype).itemsize
    memory = np.zeros(size + offset + 512, np.uint8)
    start = -memory.ctypes.data % 256 + offset
    return memory[start : start + size].view(dtype)


def filled(values: NDArray[Any], offset: int = 0) -> NDArray[Any]:
    """A copy of the values in aligned memory."""
    out = aligned(values.size, values.dtype, offset)
    out[:] = values.ravel()
    return out


def call(emulated: Emulated, function: str, *args: Any, unwritten: tuple[int, ...] = ()) -> int:
    """Calls a function with arrays, which become the only buffers, and numbers.

    Args:
        unwritten: places of arrays in which nothing counts as written yet.
    """
    emulated.clear_buffers()
    converted: list[Any] = []
    for place, arg in enumerate(args):
        if isinstance(arg, np.ndarray):
            emulated.add_buffer(f"arg{place}", arg, initialised=place not in unwritten)
            converted.append(ctypes.c_void_p(arg.ctypes.data))
        elif isinstance(arg, float):
            converted.append(ctypes.c_float(arg))
        else:
            converted.append(ctypes.c_longlong(arg))
    return int(getattr(emulated.library, function)(*converted))


def kinds(emulated: Emulated) -> set[str]:
    """The kinds of what was found."""
    return {finding.kind for finding in emulated.findings()}
