"""What is known of a compiled kernel: resources, instructions, and what its PTX says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Instructions by the bytes that one thread moves with each.
Widths = Mapping[int, int]


@dataclass(frozen=True)
class Resources:
    """What a kernel takes from a multiprocessor.

    Attributes:
        registers: of one thread.
        stack_bytes: of one thread, in local memory: spills, and arrays with computed indices.
        static_shared_bytes: of one block, without what the driver reserves.
    """

    registers: int
    stack_bytes: int
    static_shared_bytes: int


@dataclass(frozen=True)
class Instructions:
    """Counts of machine instructions, as they stand in the code, not as often as they run.

    Attributes:
        global_loads: loads from device memory, by bytes; copies to shared memory count too.
        global_stores: stores to it.
        shared_loads: loads from shared memory.
        shared_stores: stores to it.
        generic: loads and stores whose space the compiler did not know.
        local_loads: from local memory, where spilled registers go.
        local_stores: to it.
        matrix: matrix instructions (mma).
        bulk_copies: copies by the copy engine (TMA), whose width no instruction says.
    """

    global_loads: Widths
    global_stores: Widths
    shared_loads: Widths
    shared_stores: Widths
    generic: int
    local_loads: int
    local_stores: int
    matrix: int
    bulk_copies: int


@dataclass(frozen=True)
class PtxFacts:
    """What the machine code no longer says.

    Attributes:
        threads: the largest block the kernel may be launched with; None where it names none.
        float_atomics: atomics on floating-point numbers, whose sums depend on the order.
        integer_atomics: all others.
        contractible: sums and products that the assembler may fuse, as they name no rounding.
    """

    threads: int | None
    float_atomics: int
    integer_atomics: int
    contractible: int


@dataclass(frozen=True)
class Kernel:
    """One kernel as compiled for one architecture.

    Attributes:
        name: short and readable, such as ``moments_kernel<bfloat16, variance>``.
        group: the source file it stands in.
        architecture: 90 for sm_90.
        threads: the largest block.
        dynamic_shared_bytes: what the compiler asks the launch for; Triton knows it, nvcc does not.
    """

    name: str
    group: str
    architecture: int
    threads: int | None
    dynamic_shared_bytes: int
    resources: Resources
    instructions: Instructions
    ptx: PtxFacts

    @property
    def spills(self) -> bool:
        """Whether registers, or arrays meant for registers, went to local memory."""
        code = self.instructions
        return bool(self.resources.stack_bytes or code.local_loads or code.local_stores)
