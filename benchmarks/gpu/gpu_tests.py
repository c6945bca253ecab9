"""The tests marked ``gpu``, in several processes; every result is kept when its test ends."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from benchmarks.gpu.folder import ROOT
from benchmarks.gpu.job import Job

#: A process takes half a gigabyte of the device, and its kernels wait for those of the others.
MOST_PROCESSES = 8
#: Where those tests are: what the other files import a machine need not have.
TESTS = (
    "batching/test_memory_cuda.py",
    "ops",
    "optim/test_optim_graphs.py",
    "statistics/test_layer_on_device.py",
)


class Recorder:
    """A plugin that keeps the outcome of every test, and of every file that cannot be imported."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """One of a test's three phases; of the first and the last only what is no success."""
        if report.when == "call" or not report.passed:
            self._keep(report)

    def pytest_collectreport(self, report: Any) -> None:
        """A file or a folder, looked through."""
        if report.failed:
            self._keep(report)

    def _keep(self, report: Any) -> None:
        self.counts[report.outcome] += 1
        # Of what is skipped the last entry has the reason; of what failed the first marked line.
        said = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longreprtext
        lines = [line for line in str(said).splitlines() if line.strip()] or [""]
        marked = [line[1:] for line in lines if line.startswith("E ")] + lines[-1:]
        self._job.keep(
            test=report.nodeid,
            outcome=report.outcome,
            seconds=getattr(report, "duration", 0.0),
            details="" if report.outcome == "passed" else marked[0].strip()[:300],
        )


def tests() -> list[str]:
    """The paths of ``TESTS``."""
    return [str(ROOT / "python_tests" / name) for name in TESTS]


def run(job: Job) -> None:
    """Run the tests, those of ``job.tests`` alone where that names a path.

    Raises:
        RuntimeError: where a test failed, a file was not imported, or no test ran.
    """
    import pytest

    recorder = Recorder(job)
    arguments = [
        *([job.tests] if job.tests else tests()), "-m", "gpu and not nightly", "-q",
        "--continue-on-collection-errors",
        "-p", "no:cacheprovider", "-p", "no:benchmark",
        # A warning of a torch that is newer than ours is no fault of a kernel.
        "-o", "filterwarnings=default",
    ]  # fmt: skip
    if importlib.util.find_spec("xdist") is not None:
        processes = min(MOST_PROCESSES, len(os.sched_getaffinity(0)))
        arguments += ["-n", str(processes), "--dist", "worksteal"]
    status = int(pytest.main(arguments, plugins=[recorder]))
    told = ", ".join(f"{count} {outcome}" for outcome, count in recorder.counts.items())
    print(f"\n{told}")
    # 5: no test was collected. A rehearsal skips all of them, which is as it should be.
    if status not in (0, 5) or (not recorder.counts["passed"] and not job.rehearsed):
        raise RuntimeError(told)
