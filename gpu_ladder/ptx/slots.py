"""Where the registers, immediates and special registers of a kernel lie in a warp's file."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

LANES = 32

# The engine's order of special registers.
_SPECIAL_ORDER = (
    *(f"%tid.{axis}" for axis in "xyz"),
    *(f"%ntid.{axis}" for axis in "xyz"),
    *(f"%ctaid.{axis}" for axis in "xyz"),
    *(f"%nctaid.{axis}" for axis in "xyz"),
    "%laneid",
    "%warpid",
    "%nwarpid",
    "%lanemask_eq",
    "%lanemask_le",
    "%lanemask_lt",
    "%lanemask_ge",
    "%lanemask_gt",
    "%smid",
    "%nsmid",
    "%gridid",
    "%total_smem_size",
    "%dynamic_smem_size",
)
_ZERO = len(_SPECIAL_ORDER)
_ONE = _ZERO + 1

# Name -> (the engine's number, bits). Every block is a cluster of its own.
SPECIAL_REGISTERS: dict[str, tuple[int, int]] = {
    **{name: (number, 32) for number, name in enumerate(_SPECIAL_ORDER)},
    "%gridid": (_SPECIAL_ORDER.index("%gridid"), 64),
    **{f"%cluster_ctaid.{axis}": (_ZERO, 32) for axis in "xyz"},
    **{f"%cluster_nctaid.{axis}": (_ONE, 32) for axis in "xyz"},
    **{f"%clusterid.{axis}": (_SPECIAL_ORDER.index(f"%ctaid.{axis}"), 32) for axis in "xyz"},
    **{f"%nclusterid.{axis}": (_SPECIAL_ORDER.index(f"%nctaid.{axis}"), 32) for axis in "xyz"},
    "%cluster_ctarank": (_ZERO, 32),
    "%cluster_nctarank": (_ONE, 32),
}

LITERAL, SPECIAL, PARAMETER, VARIABLE = range(4)


@dataclass
class Slots:
    """Hands out slots; equal constants share one."""

    size: int = 0
    constants: dict[tuple[int, int, int], int] = field(default_factory=dict)
    sinks: dict[int, int] = field(default_factory=dict)

    def register(self, bits: int) -> int:
        """A slot for a register of 16, 32 or 64 bits, or a predicate (1)."""
        size = 4 if bits == 1 else LANES * bits // 8
        alignment = min(size, 64)
        self.size = -(-self.size // alignment) * alignment
        offset = self.size
        self.size += size
        return offset

    def constant(self, source: int, value: int, bits: int) -> int:
        """A slot whose lanes all hold the value, or a special register's."""
        key = (source, value, bits)
        if key not in self.constants:
            self.constants[key] = self.register(bits)
        return self.constants[key]

    def sink(self, bits: int) -> int:
        """A slot for results that nobody reads."""
        if bits not in self.sinks:
            self.sinks[bits] = self.register(bits)
        return self.sinks[bits]

    def packed_constants(self) -> bytes:
        """As the engine reads them."""
        return b"".join(
            struct.pack("<QIIII", value, slot, 0 if bits == 1 else bits // 8, source, 0)
            for (source, value, bits), slot in self.constants.items()
        )
