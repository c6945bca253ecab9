"""Whether results are right on the device: the tests marked ``gpu``, and compute-sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from gpu_contenders import Workbench
from gpu_page import Outcome
from gpu_plan import plan

FOLDER = Path(__file__).parent
TESTS = "tests marked gpu"
TOOLS = ("memcheck", "racecheck")
#: Where CUDA puts its programs when they are not on PATH.
CUDA_PROGRAMS = Path("/usr/local/cuda/bin")
FOUND = 86
#: Every tensor in an allocation of its own, or memcheck would see one buffer for all of them.
_OWN_MEMORY = ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1")
#: Bytes of G, where every op of ours runs once.
SMALL = 256 << 10
MOST_NAMES = 8

Run = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]


def run_command(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program in this folder; raises TimeoutExpired after ``seconds``.

    Not in the root folder, from which Python would import the sources instead of what is installed.
    """
    return subprocess.run(
        list(command), cwd=FOLDER, capture_output=True, text=True, timeout=max(1.0, seconds)
    )


def run_tests(seconds: float, run: Run = run_command) -> Outcome:
    """Run the tests marked ``gpu``."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
                   f"--junitxml={report}", "../python_tests"]  # fmt: skip
        try:
            done = run(command, seconds)
        except subprocess.TimeoutExpired:
            return Outcome(TESTS, False, f"not done after {seconds:.0f} s")
        if not report.is_file():
            return Outcome(TESTS, False, f"pytest ended with {done.returncode}: {_last(done)}")
        return _read(report, done.returncode)


def _read(report: Path, status: int) -> Outcome:
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    wrong = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    passed = len(cases) - len(wrong) - len(skipped)
    details = f"{passed} passed, {len(wrong)} failed, {len(skipped)} were skipped"
    if wrong:
        names = [f"{case.get('classname')}::{case.get('name')}" for case in wrong]
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        details += f": {', '.join(names[:MOST_NAMES])}{more}"
    if not passed:
        details += "; a report without a test that passed shows nothing"
    return Outcome(TESTS, passed > 0 and not wrong and status == 0, details)


def run_sanitizers(seconds: float, run: Run = run_command) -> list[Outcome]:
    """Run every op of ours once under each tool of compute-sanitizer."""
    program = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=str(CUDA_PROGRAMS)
    )
    if program is None:
        reason = "no compute-sanitizer on this machine"
        return [Outcome(f"compute-sanitizer {tool}", None, reason) for tool in TOOLS]
    outcomes = []
    for tool in TOOLS:
        command = [*_OWN_MEMORY, program, "--tool", tool, "--error-exitcode", str(FOUND),
                   sys.executable, ".", "gpu-report", "--once"]  # fmt: skip
        try:
            done = run(command, seconds / len(TOOLS))
            passed: bool | None = done.returncode == 0
            details = _last(done)
        except subprocess.TimeoutExpired:
            passed, details = None, f"not done after {seconds / len(TOOLS):.0f} s"
        outcomes.append(Outcome(f"compute-sanitizer {tool}", passed, details))
    return outcomes


def run_once(device: str, backends: tuple[str, ...]) -> int:
    """Run every op of ours once, on little data; how many calls that were."""
    calls = 0
    for case in plan(Workbench(device, SMALL, backends, compiled=False)):
        for name, call in case.contenders().items():
            if name in backends:
                call()
                calls += 1
    return calls


def _last(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines() or ["(no output)"]
    return lines[-1].strip("= ")[:200]
