"""Fresh interpreters, for what is decided once per process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: Seconds that a process may take; more where an emulator executes it.
PATIENCE = 300 * int(os.environ.get("TEST_PATIENCE", "1"))


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a new interpreter, with variables added to the environment.

    It starts in this folder, because in the source tree it would import the package from there,
    and not the one that the tests were started with.
    """
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    absolute = os.pathsep.join(os.path.abspath(folder) for folder in path if folder)
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": absolute, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def output(code: str, **environment: str) -> str:
    """What ``code`` prints; its failure is ours."""
    child = python(code, **environment)
    assert child.returncode == 0, child.stderr
    return child.stdout.strip()
