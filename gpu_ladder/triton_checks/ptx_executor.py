"""Triton's PTX on the CPU: what Triton compiles for an architecture, launched by a backend.

A `PtxExecutor` takes the place of Triton in a backend whose launches go through one function. It
compiles what would be launched on a device of that architecture, gives the PTX to the machine of
`gpu_ladder.ptx` with the same arguments, and keeps what the machine finds.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

from gpu_ladder.ptx import Buffer, Finding, Kernel, Module, Report
from gpu_ladder.triton_checks.allocations import Allocations
from gpu_ladder.triton_checks.compile import TRAILING_POINTERS, Compiled, Launch, compile_for

#: How arguments that are no pointers lie in memory.
_FORMATS = {"i1": "?", "i32": "i", "i64": "q", "u32": "I", "u64": "Q", "fp32": "f", "fp64": "d"}

_WARP = 32

_kernels: dict[str, Kernel] = {}


class PtxExecutor:
    """Runs launches as PTX of one architecture.

    Args:
        architecture: The compute capability, one of ``compile.ARCHITECTURES``.
        order: Of programs and warps: ``forward``, ``reverse`` or ``random``.
        checks: Whether to look for races and bad accesses, and to count traffic.
        seed: Of the random order.

    Attributes:
        reports: The kernel's name and the machine's report, launch after launch.

    Example:
        >>> with PtxExecutor(90).running(set_executor) as executor:
        ...     outputs = backend.batch_moments(grads, True, True)
        >>> executor.findings
        []
    """

    def __init__(
        self, architecture: int, order: str = "forward", checks: bool = True, seed: int = 0
    ) -> None:
        self.architecture = architecture
        self.order = order
        self.checks = checks
        self.seed = seed
        self.reports: list[tuple[str, Report]] = []
        self._allocations = Allocations()

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """What the machine found, and the kernel in which."""
        return [(name, finding) for name, report in self.reports for finding in report.findings]

    @contextlib.contextmanager
    def running(self, set_executor: Callable[[Any], Any]) -> Iterator[PtxExecutor]:
        """Install it for a while, and watch which memory torch gives away unwritten."""
        previous = set_executor(self)
        try:
            with self._allocations:
                yield self
        finally:
            set_executor(previous)

    def __call__(self, launch: Launch) -> None:
        """Execute one launch.

        Raises:
            RuntimeError: Where the kernel does not finish, or its parameters are not understood.
        """
        compiled, special = compile_for(launch, self.architecture)
        kernel = _machine_code(compiled)
        tensors = [value for _, value in special.arguments if isinstance(value, Tensor)]
        arguments = [_pack(kind, value) for kind, value in special.arguments]
        trailing = len(kernel.params) - len(arguments)
        if trailing != TRAILING_POINTERS or compiled.scratch_bytes:
            raise RuntimeError(
                f"{compiled.name} has {trailing} parameters beside its own and wants "
                f"{compiled.scratch_bytes} bytes of scratch memory; understood are "
                f"{TRAILING_POINTERS} and none"
            )
        report = kernel.launch(
            launch.grid,
            (_WARP * compiled.num_warps,),
            [*arguments, *[bytes(8)] * trailing],
            shared_bytes=compiled.shared_bytes,
            order=self.order,
            seed=self.seed,
            buffers=_buffers(tensors, self._allocations),
            checks=self.checks,
        )
        self.reports.append((compiled.name, report))
        for tensor in tensors:
            self._allocations.mark_written(tensor)
        if report.outcome != "finished":
            raise RuntimeError(f"{compiled.name} is {report.outcome}: {report.findings}")


def _machine_code(compiled: Compiled) -> Kernel:
    if compiled.ptx not in _kernels:
        _kernels[compiled.ptx] = Module(compiled.ptx).kernels[compiled.name]
    return _kernels[compiled.ptx]


def _pack(kind: str, value: Any) -> bytes:
    if kind.startswith("*"):
        return struct.pack("Q", value.data_ptr())
    return struct.pack(_FORMATS[kind], value)


def _buffers(tensors: list[Tensor], allocations: Allocations) -> list[Buffer]:
    """The memory of the tensors, each row of a strided one apart; what overlaps is one buffer."""
    pieces = []
    for index, tensor in enumerate(tensors):
        written = allocations.written(tensor)
        pieces += [(start, end, f"argument {index}", written) for start, end in _extents(tensor)]
    merged: list[Buffer] = []
    for start, end, name, written in sorted(pieces, key=lambda piece: piece[:2]):
        last = merged[-1] if merged else None
        if last is not None and start < last.address + last.bytes:
            end = max(end, last.address + last.bytes)
            merged[-1] = Buffer(
                last.name, last.address, end - last.address, last.initialised or written
            )
        else:
            merged.append(Buffer(name, start, end - start, written))
    return merged


def _extents(tensor: Tensor) -> Iterator[tuple[int, int]]:
    if tensor.numel() == 0:
        return
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    if tensor.dim() < 2 or span <= tensor.numel():
        yield tensor.data_ptr(), tensor.data_ptr() + span * tensor.element_size()
    else:
        for row in tensor:
            yield from _extents(row)
