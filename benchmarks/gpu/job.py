"""What a process of a part is asked for, and the device it works on."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gpu.folder import Folder

#: Before its limit a process ends by itself, so that it can say what it left out.
EARLY_SECONDS = 6.0


@dataclass(frozen=True)
class Job:
    """A process of a part.

    Attributes:
        part: whose results it adds to.
        folder: of the report.
        seconds: its limit.
        way: which backend it is of, where the part is of one.
        dtype: which element type, likewise.
        rehearsed: whether a CPU stands for the GPU.
        only: cases whose op or title contains this.
        tests: a path of tests, or nothing for all.
        mib: size of G, or None for the default.
        start: when it began, on the monotonic clock.
    """

    part: str
    folder: Folder
    seconds: float
    way: str = ""
    dtype: str = ""
    rehearsed: bool = False
    only: str = ""
    tests: str = ""
    mib: int | None = None
    start: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        """When to end, on the monotonic clock."""
        return self.start + max(0.8 * self.seconds, self.seconds - EARLY_SECONDS)

    def keep(self, **record: Any) -> None:
        """Add a line to the results."""
        self.folder.keep(self.part, **record)

    def hide(self) -> None:
        """Have ``auto`` take Triton where the process is Triton's; before the package's import.

        Ops of layers have kernels on some backends alone, so that ``auto`` must choose: of a
        backend asked for by name the others would be refused.
        """
        if self.way == "triton":
            sys.modules["adadagrad_kernels._C_cuda"] = None  # type: ignore[assignment]

    def device(self) -> Any:
        """The GPU, or what stands for it."""
        if self.rehearsed:
            from benchmarks.gpu.host import HostDevice

            return HostDevice()
        from benchmarks.gpu.device import CudaDevice

        return CudaDevice()

    def backends(self) -> tuple[str, ...]:
        """Those with kernels for the device that can run; the others are kept with the reason."""
        from adadagrad_kernels.backends import BACKENDS

        names = ("cpu",) if self.rehearsed else ("cuda", "triton")
        wanted = [name for name in names if self.way in ("", name)]
        missing = {name: BACKENDS[name].unavailable() for name in wanted}
        for name, why in missing.items():
            if why is not None:
                self.keep(backend=name, missing=why)
        return tuple(name for name, why in missing.items() if why is None)
