"""Every op of a backend once, untimed and on little data: what compute-sanitizer watches."""

from __future__ import annotations

from benchmarks.gpu.contenders import Workbench
from benchmarks.gpu.job import Job
from benchmarks.gpu.plan import plan

#: Bytes of G.
SMALL = 256 << 10


def run(job: Job) -> None:
    """Run every op of the backend once, on little data.

    Raises:
        RuntimeError: where the backend cannot run.
    """
    backends = job.backends()
    if not backends:
        raise RuntimeError(f"the backend {job.way} cannot run here")
    calls = 0
    for case in plan(Workbench(job.device().name, SMALL, backends, compiled=False)):
        for name, call in case.contenders().items():
            if name in backends:
                call()
                calls += 1
    print(f"{calls} calls, each once")
