"""Triton's kernels in its interpreter, and the checker of their accesses.

The interpreter is chosen when Triton is imported: each file of cases has a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "interpreted"
FILES = sorted(path.name for path in CASES.glob("case_*.py"))
#: By day: one kernel of each kind, sums over rows and an update, without the loads and stores that
#: convert and the cases of thousands of programs. The others run as PTX by day, and these too.
BY_DAY = ["case_adagrad_step.py", "case_batch_moments.py"]
QUICK = ("-k", "not float16 and not extreme and not wide_rows and not denormals")

pytest.importorskip("triton", reason="Triton is not installed; pip install triton")


def _all_of_them(config: pytest.Config) -> bool:
    return bool(config.getoption("--gpu-cases", "some") == "all")


def _run(file: str, *selected: str) -> str:
    """Run a file's cases; their failure is ours, with all they say."""
    # Not on the sources of this folder, which have no compiled kernels: -P.
    options = ["-q", "-p", "no:cacheprovider", "-o", "python_files=case_*.py", *selected]
    command = [sys.executable, "-P", "-m", "pytest", str(CASES / file), *options]
    child = subprocess.run(
        command,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stdout[-8000:] + child.stderr[-2000:]
    return child.stdout


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "file" in metafunc.fixturenames:
        metafunc.parametrize("file", FILES if _all_of_them(metafunc.config) else BY_DAY)


def test_cases(file: str, request: pytest.FixtureRequest) -> None:
    selected = () if _all_of_them(request.config) else QUICK
    assert " passed" in _run(file, *selected)


def test_every_op_has_cases() -> None:
    folder = Path(__file__).resolve().parents[3] / "adadagrad_kernels" / "backends" / "triton"
    ops = {path.stem for path in (folder / "kernels").glob("[!_]*.py")}
    assert "batch_moments" in ops
    assert {f"case_{op}.py" for op in ops} <= set(FILES)
    assert set(BY_DAY) <= set(FILES)
