"""AddressSanitizer and UndefinedBehaviorSanitizer see kernels on their fibers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gpu_ladder.emulated import load, sanitizer_environment
from gpu_ladder.host_build import build
from gpu_ladder.places import PACKAGE

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np
from ladder_arrays import aligned, call, kinds
from gpu_ladder.emulated import load
emulated = load("sanitized", "ladder_kernels")
memory = np.zeros(1024, np.float32)
values = aligned(1024)
values[:] = np.arange(1024)
{body}
print("reached the end")
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    build("sanitized", "ladder_kernels")
    script = SCRIPT.format(tests=str(PACKAGE / "tests" / "runtime"), body=body)
    return subprocess.run(
        [sys.executable, "-c", script],
        env=sanitizer_environment(),
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("body", "report"),
    [
        ("call(emulated, 'fault_off_by_one', memory, 1024)", "heap-buffer-overflow"),
        ("call(emulated, 'fault_shared_overflow', memory)", "use-after-poison"),
        ("call(emulated, 'fault_vector', values[1:], memory)", "misaligned address"),
    ],
)
def test_fault_ends_the_process(body: str, report: str) -> None:
    result = run(body)
    assert result.returncode != 0
    assert "reached the end" not in result.stdout
    assert report in result.stderr
    assert "faults.cu" in result.stderr


def test_right_kernels_run_to_the_end() -> None:
    result = run(
        """
for schedule in ("forward", "reverse", "random"):
    emulated.set_schedule(schedule, 1)
    out = aligned(1024)
    assert call(emulated, "transpose", values, out, 32, 32, 1) == 0
    assert (out.reshape(32, 32) == values.reshape(32, 32).T).all()
    assert call(emulated, "reverse_parts", values, out, 4, 64, 1024) == 0
    total = aligned(1)
    assert call(emulated, "sum", values, 1024, aligned(8), 8, total) == 0
    assert total[0] == values.sum()
assert emulated.findings() == []
# A grid that is given up leaves marks on its stacks, which the next must not meet.
call(emulated, "fault_divergent_shuffle", values, aligned(64))
assert kinds(emulated) == {"deadlock"}
assert call(emulated, "transpose", values, out, 32, 32, 1) == 0
"""
    )
    assert result.returncode == 0, result.stderr
    assert "reached the end" in result.stdout


def test_process_without_the_sanitizer_is_refused() -> None:
    with pytest.raises(RuntimeError, match="sanitizer_environment"):
        load("sanitized", "ladder_kernels")
