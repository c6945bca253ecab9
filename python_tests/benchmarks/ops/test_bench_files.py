"""The files of pytest-benchmark, started as `make bench` starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from adadagrad_kernels.backends import cpu

FOLDER = Path(benchmarks.__file__).parent
needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))


@needs_kernels
@pytest.mark.nightly
def test_timed_benchmarks_run_with_what_torch_compiles(tmp_path: Path) -> None:
    """As `make bench` runs them: torch's compiler warns of torch's own parts, which is no error."""
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q"]
    options = ["--benchmark-only", "--bench-size", "small", "--benchmark-max-time=0.01"]
    # To pytest-benchmark a worker of pytest-xdist would be a place where nothing can be timed.
    alone = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    child = subprocess.run(
        [*command, *options, "-p", "no:cacheprovider", "-k", "test_compiled and plain-64"],
        cwd=tmp_path,
        env=alone,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout
    assert "1 passed" in child.stdout
