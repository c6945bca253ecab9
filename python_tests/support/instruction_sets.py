"""The instruction sets with kernels of their own, on this kind of processor."""

from __future__ import annotations

import platform

#: Processors are called either, by the operating system.
ON_ARM = platform.machine() in ("aarch64", "arm64")

ISAS = ("scalar", "neon") if ON_ARM else ("scalar", "avx2", "avx512")

#: One of another kind of processor, which cannot be compiled in here.
FOREIGN_ISA = "avx2" if ON_ARM else "neon"
