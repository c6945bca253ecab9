"""The GPU itself: events, caches, memory, launches, waits, names and versions."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import warnings
from collections import Counter

import torch

from benchmarks.gpu.counts import Call, Counts, counted
from benchmarks.gpu.job import Job

#: Read between calls: more than any L2 cache holds. Reading leaves nothing to write back later.
FLUSH_BYTES = 512 << 20
#: What a rehearsal builds for, where it finds nvcc.
REHEARSED_CAPABILITY = "9.0"


class CudaDevice:
    """A CUDA device, timed by its own events."""

    def __init__(self, index: int = 0) -> None:
        self.index = index
        self.name = f"cuda:{index}"
        torch.cuda.set_device(index)
        self._other = torch.zeros(FLUSH_BYTES // 4, device=self.name)
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        """Device time of one call, the mean of ``repeats``; other data in the caches if ``flush``.

        While the device still fills them, the host launches the call: what that takes the host does
        not count, unless it takes longer.
        """
        start, end = self._events
        torch.cuda.synchronize()
        if flush:
            torch.sum(self._other)
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / repeats

    def wait(self) -> None:
        """Return when the device has done all it was given."""
        torch.cuda.synchronize()

    def free(self) -> None:
        """Give unused memory back."""
        torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        """Memory that is not taken."""
        return int(torch.cuda.mem_get_info()[0])

    def peak_bytes(self, call: Call) -> float:
        """Most memory that torch's allocator had given out during a call, above its start."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        del result
        return float(torch.cuda.max_memory_allocated() - before)

    def counts(self, call: Call) -> Counts:
        """Launches and waits of a call, by the profiler; and the lines that wait, by torch."""
        found = counted(call, torch.profiler.ProfilerActivity.CUDA, self.wait)
        return found._replace(where=_waiting_lines(call))

    def facts(self) -> dict[str, str]:
        """What a reader must know of the device and the software."""
        found = torch.cuda.get_device_properties(self.index)
        return {
            "GPU": found.name,
            "compute capability": f"{found.major}.{found.minor}",
            "multiprocessors": str(found.multi_processor_count),
            "memory": f"{found.total_memory / 2**30:.0f} GiB",
            "L2 cache": f"{found.L2_cache_size / 2**20:.0f} MiB",
            **self._from_driver(),
            "torch": str(torch.__version__),
            "CUDA of torch": str(torch.version.cuda),
            "Triton": _triton(),
            "Python": platform.python_version(),
        }

    def _from_driver(self) -> dict[str, str]:
        """Driver, clocks and power limit, as ``nvidia-smi`` has them."""
        names = {
            "driver": "driver_version",
            "clock": "clocks.sm",
            "highest clock": "clocks.max.sm",
            "memory clock": "clocks.mem",
            "power limit": "power.limit",
            "temperature (°C)": "temperature.gpu",
        }
        program = shutil.which("nvidia-smi")
        if program is None:
            return dict.fromkeys(names, "unknown: no nvidia-smi")
        query = f"--query-gpu={','.join(names.values())}"
        done = subprocess.run(
            [program, query, "--format=csv,noheader", f"--id={self.index}"],
            capture_output=True,
            text=True,
        )
        values = [value.strip() for value in done.stdout.strip().split(",")]
        if done.returncode != 0 or len(values) != len(names):
            return dict.fromkeys(names, "unknown: nvidia-smi fails")
        return dict(zip(names, values, strict=True))


def _waiting_lines(call: Call) -> dict[str, int]:
    """The Python lines at which torch waited for the device, and how often."""
    lines: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for one in told:
        if "called a synchronizing CUDA operation" in str(one.message):
            folder, name = os.path.split(one.filename)
            lines[f"{os.path.basename(folder)}/{name}:{one.lineno}"] += 1
    return dict(lines)


def _triton() -> str:
    try:
        import triton
    except ImportError:
        return "none"
    return str(triton.__version__)


def unavailable() -> str | None:
    """Why there is no GPU to measure, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device (nvidia-smi says why)"
    return None


def run(job: Job) -> None:
    """Keep the facts of the device and its compute capability, or why there is none."""
    if job.rehearsed:
        job.keep(facts=job.device().facts(), capability=REHEARSED_CAPABILITY)
        return
    reason = unavailable()
    if reason is not None:
        job.keep(missing=reason)
        return
    device = CudaDevice()
    major, minor = torch.cuda.get_device_capability(device.index)
    job.keep(facts=device.facts(), capability=f"{major}.{minor}")
