"""A CPU in a GPU's place, to rehearse a report: everything runs, and no figure is a GPU's."""

from __future__ import annotations

import platform
import time

import torch

from benchmarks.gpu.counts import Call, Counts, counted
from benchmarks.measuring import interleaved


class HostDevice:
    """A CPU, timed by the host's clock."""

    name = "cpu"

    def __init__(self) -> None:
        # Tensors are too small to share: threads that wait for each other would take all the time.
        torch.set_num_threads(1)

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        """Time of one call, the mean of ``repeats``; nothing is flushed."""
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    def wait(self) -> None:
        """Nothing is ever under way."""

    def free(self) -> None:
        """Memory goes back by itself."""

    def free_bytes(self) -> int:
        """As much as a rehearsal needs."""
        return 12 << 20

    def peak_bytes(self, call: Call) -> float:
        """Most memory that torch's allocator had given out during a call, above its start."""
        return interleaved.allocated_bytes(call)

    def counts(self, call: Call) -> Counts:
        """Operators, and numbers read from tensors."""
        return counted(call, torch.profiler.ProfilerActivity.CPU, self.wait)

    def facts(self) -> dict[str, str]:
        """What a reader must know."""
        return {
            "GPU": "none: a rehearsal on a CPU",
            "torch": str(torch.__version__),
            "Python": platform.python_version(),
        }
