"""Triton kernels for the gate's own tests, listed as ``triton_gate`` expects them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ELEMENTS = 1024


@triton.jit
def doubled_kernel(source, target, count, elements: tl.constexpr):
    """Twice the source."""
    at = tl.program_id(0) * elements + tl.arange(0, elements)
    there = at < count
    tl.store(target + at, 2 * tl.load(source + at, mask=there), mask=there)


@triton.jit
def added_kernel(source, target, count, elements: tl.constexpr):
    """The sum of all programs, in whatever order they come."""
    at = tl.program_id(0) * elements + tl.arange(0, elements)
    tl.atomic_add(target, tl.sum(tl.load(source + at, mask=at < count, other=0.0)))


@dataclass(frozen=True)
class Listed:
    """A kernel compiled with or without the fact that addresses are multiples of 16.

    Products and sums are fused or not, as the compiler likes, where ``contracts``.
    """

    name: str
    function: Any
    aligned: bool
    contracts: bool = False
    num_warps: int = 4

    def _built(self, architecture: int) -> Any:
        signature = {"source": "*fp32", "target": "*fp32", "count": "i32", "elements": "constexpr"}
        divisible = [["tt.divisibility", 16]]
        source = ASTSource(
            self.function,
            signature,
            {"elements": ELEMENTS},
            {(i,): divisible for i in range(3)} if self.aligned else {},
        )
        options = {"num_warps": self.num_warps, "enable_fp_fusion": self.contracts}
        target = GPUTarget("cuda", architecture, 32)
        return triton.compile(source, target=target, options=options)

    def cubin(self, architecture: int) -> bytes:
        return self._built(architecture).asm["cubin"]

    def ptx(self, architecture: int) -> str:
        return self._built(architecture).asm["ptx"]

    def shared(self, architecture: int) -> int:
        return int(self._built(architecture).metadata.shared)


def kernels() -> list[Listed]:
    """Not in the order of their names."""
    return [
        Listed("doubled_kernel<aligned>", doubled_kernel, aligned=True),
        Listed("added_kernel", added_kernel, aligned=True),
        Listed("doubled_kernel", doubled_kernel, aligned=False),
        Listed("doubled_kernel<contracts>", doubled_kernel, aligned=True, contracts=True),
    ]
