"""The memory model by its own functions: a test says what the threads of a grid do."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from ladder_arrays import aligned

WHOLE = 0xFFFFFFFF


class Model:
    """One grid of blocks of 64 threads over a buffer of 8 KiB and 1 KiB of shared memory."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        library.model_new.restype = ctypes.c_void_p
        library.model_findings.restype = ctypes.c_char_p
        self.handle = ctypes.c_void_p(library.model_new())
        self.memory = aligned(8192, np.uint8)
        self.shared = aligned(1024, np.uint8)
        self.keep: list[Any] = []
        self.add_buffer(self.memory, initialised=True)

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.library, f"model_{name}")
        return lambda *args: function(self.handle, *args)

    def add_buffer(self, memory: np.ndarray, *, initialised: bool) -> None:
        self.library.model_add_buffer(
            self.handle,
            b"memory",
            ctypes.c_uint64(memory.ctypes.data),
            ctypes.c_uint64(memory.size),
            int(initialised),
        )

    def start(self, block: int = 0) -> None:
        base = ctypes.c_uint64(self.shared.ctypes.data)
        self.library.model_begin_grid(self.handle, 4, 64, base, ctypes.c_uint64(1024))
        self.begin_block(block)

    def base(self, what: str) -> int:
        return int((self.shared if "s" in what else self.memory).ctypes.data)

    def do(self, what: str, thread: int, offset: int, size: int = 4, **how: Any) -> bool:
        """An access; `value` is what it writes, which is then performed."""
        site, value = how.get("site", 1), how.get("value")
        pointer = None
        if value is not None:
            data = np.full(1, value, f"u{size}")
            self.keep.append(data)
            pointer = ctypes.c_void_p(data.ctypes.data)
        address = self.base(what) + offset
        done = self.access(what.encode(), thread, ctypes.c_uint64(address), size, site, pointer)
        if done and value is not None:
            ctypes.memmove(address, pointer, size)
        return bool(done)

    def warp(self, what: str, offsets: list[int], size: int = 4, **how: Any) -> int:
        """The same by a warp; `values` are what its lanes write."""
        addresses = (ctypes.c_uint64 * 32)(*(self.base(what) + offset for offset in offsets))
        values = how.get("values")
        pointers = None
        if values is not None:
            data = np.array(values, f"u{size}")
            self.keep.append(data)
            pointers = (ctypes.c_void_p * 32)(*(data.ctypes.data + size * i for i in range(32)))
        mask = ctypes.c_uint(how.get("mask", WHOLE))
        lanes = self.access_warp(
            what.encode(), how.get("warp", 0), mask, addresses, size, how.get("site", 1), pointers
        )
        return int(lanes) & WHOLE

    def sync(self, mask: int = WHOLE, warp: int = 0) -> None:
        self.warp_sync(warp, ctypes.c_uint(mask))

    def found(self) -> list[str]:
        kinds = [line.split()[0] for line in self.findings().decode().splitlines()]
        self.clear_findings()
        return kinds

    def moved(self, site: int = 1) -> dict[str, int]:
        out = (ctypes.c_uint64 * 6)()
        assert self.traffic(site, out) == 1
        names = ("requests", "bytes", "sectors", "ideal_sectors", "wavefronts", "ideal_wavefronts")
        return dict(zip(names, out, strict=True))
