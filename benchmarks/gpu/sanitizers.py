"""compute-sanitizer: every op of a backend once, under memcheck or racecheck."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.gpu.job import Job
from benchmarks.gpu.parts import last_line

#: Where CUDA puts its programs when they are not on PATH.
CUDA_PROGRAMS = Path("/usr/local/cuda/bin")
FOUND = 86

Run = Callable[[Sequence[str], dict[str, str], Path], int]


def run_command(command: Sequence[str], environment: dict[str, str], log: Path) -> int:
    """Run a program, its output into a file; its exit status."""
    with log.open("wb") as output:
        return subprocess.run(
            list(command), env=environment, stdout=output, stderr=subprocess.STDOUT
        ).returncode


def run(job: Job, run_command: Run = run_command) -> None:
    """Run every op of ``job.way`` once under the tool that the part is named after.

    Raises:
        RuntimeError: where the tool found something, or the ops did not run.
    """
    tool = job.part.partition("-")[0]
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=str(CUDA_PROGRAMS)
    )
    if program is None:
        job.keep(tool=tool, backend=job.way, missing="no compute-sanitizer on this machine")
        return
    log = job.folder.log(f"{job.part}-findings")
    script = Path(__file__).resolve().parents[1] / "gpu_report.py"
    command = [
        program, "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, str(script),
        "--part", "once", "--out", str(job.folder.path), "--way", job.way,
    ]  # fmt: skip
    # Every tensor in an allocation of its own, or memcheck would see one buffer for all of them.
    status = run_command(command, {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, log)
    said = last_line(log)
    job.keep(tool=tool, backend=job.way, right=status == 0, details=said)
    if status != 0:
        raise RuntimeError(said)
