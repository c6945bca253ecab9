"""The PTX machine in the place of a device: a launch hook for CUDA modules built for the host."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import Any

from gpu_ladder.ptx.arguments import Buffer
from gpu_ladder.ptx.module import Kernel, Module
from gpu_ladder.ptx.report import Finding, Report

_INVALID_DEVICE_FUNCTION = 98
_LAUNCH_FAILURE = 719


class LaunchHook:
    """Runs every launch on the kernel of the same mangled name in modules of PTX.

    Args:
        modules: The PTX of all translation units, for one architecture.
        order: See `Kernel.launch`.
        seed: See `Kernel.launch`.
        checks: Whether to look for races and bad accesses, and to count traffic.
        buffers: With checks, all global memory that kernels may touch; may be changed later.

    Attributes:
        reports: The kernel's name and the report of each launch, in order.
        error: What made a launch fail, if one did: exceptions cannot pass through C.

    Example:
        >>> hook = LaunchHook([Module(text) for text in ptx])
        >>> emulated.set_launch_hook(hook)
    """

    def __init__(
        self,
        modules: Iterable[Module],
        order: str = "forward",
        seed: int = 0,
        checks: bool = False,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        self.order = order
        self.seed = seed
        self.checks = checks
        self.buffers = list(buffers)
        self.reports: list[tuple[str, Report]] = []
        self.error: Exception | None = None
        self._kernels: dict[str, Kernel] = {}
        for module in modules:
            self._kernels.update(module.kernels)

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """All findings, with the names of their kernels."""
        return [(name, one) for name, report in self.reports for one in report.findings]

    def __call__(self, name: bytes, grid: Any, block: Any, arguments: Any, shared: int) -> int:
        """Called for each launch; returns a ``cudaError_t``."""
        kernel = self._kernels.get(name.decode())
        if kernel is None:
            self.error = KeyError(f"no kernel {name.decode()!r} in {len(self._kernels)} of PTX")
            return _INVALID_DEVICE_FUNCTION
        try:
            report = kernel.launch_raw(
                [grid[axis] for axis in range(3)],
                [block[axis] for axis in range(3)],
                ctypes.cast(arguments, ctypes.c_void_p).value or 0,
                shared,
                self.order,
                self.seed,
                self.buffers,
                self.checks,
            )
        except (ValueError, RuntimeError) as error:
            self.error = error
            return _LAUNCH_FAILURE
        self.reports.append((kernel.name, report))
        return 0 if report.outcome == "finished" else _LAUNCH_FAILURE
