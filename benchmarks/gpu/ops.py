"""Every op on a backend, beside torch and a copy; what torch compiles is a part of its own."""

from __future__ import annotations

from benchmarks.gpu.contenders import Workbench
from benchmarks.gpu.job import Job
from benchmarks.gpu.measure import LeftOut, measure_all
from benchmarks.gpu.plan import MIB, plan

#: Contenders keep copies of G; this many fit into the memory that is free.
COPIES = 12
DEFAULT_MIB = 1024


def run(job: Job) -> None:
    """Measure the plan's cases; those with contenders that torch compiles in the part of that name.

    Raises:
        RuntimeError: where no case was asked for.
    """
    device = job.device()
    backends = job.backends()
    if not backends:  # which is kept with its reasons
        return
    size = _size(job.mib, device.free_bytes())
    job.keep(size_of_g=size)
    bench = Workbench(device.name, size, backends, compiled=job.part == "compile")
    cases = [case for case in plan(bench) if job.only in f"{case.op}: {case.title}"]
    if not cases:
        raise RuntimeError(f"no case contains {job.only!r}")
    for result in measure_all(cases, device, deadline=job.deadline):
        if isinstance(result, LeftOut):
            job.keep(left_out=f"{result.case.op}: {result.case.title}")
        else:
            job.keep(**result.record())


def _size(mib: int | None, free_bytes: int) -> int:
    """Bytes of G: what was asked for, or what fits."""
    return int(min((mib or DEFAULT_MIB) * MIB, max(MIB, free_bytes // COPIES // MIB * MIB)))
