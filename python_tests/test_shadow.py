"""Python started in the folder of the sources, which hide the installed package: it is said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import adadagrad_kernels
from adadagrad_kernels import _native

pytestmark = pytest.mark.skipif(_native.C is None, reason=str(_native.missing))

PACKAGE = Path(adadagrad_kernels.__file__).parent

USE = """
import torch
from adadagrad_kernels import ops
for _ in range(2):
    print(ops.batch_moments(torch.eye(2)).sq_norms.tolist())
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder as a clone is: the sources of the package, and no compiled module."""
    ignored = shutil.ignore_patterns("_C*.so", "__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "clone" / PACKAGE.name, ignore=ignored)
    (tmp_path / "clone" / "CMakeLists.txt").touch()
    return tmp_path / "clone"


def run(
    folder: Path, *arguments: str, text: str = "", found: Path | None = PACKAGE.parent
) -> subprocess.CompletedProcess[str]:
    """Starts Python in a folder; `found` is where the installed package is, or None."""
    environment = {**os.environ, "PYTHONPATH": "" if found is None else str(found)}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "arguments", [["-"], ["-c", USE], ["-i", "-q"]], ids=lambda given: given[0]
)
def test_the_folder_that_hides_the_installed_package_is_named(
    clone: Path, arguments: list[str]
) -> None:
    # An interactive session ends a block at an empty line.
    child = run(clone, *arguments, text=USE + "\n")
    assert child.stdout.count("[1.0, 1.0]") == 2, child.stderr
    hiding = clone / PACKAGE.name
    said = f"RuntimeWarning: adadagrad_kernels has no compiled kernels here; the folder {hiding}"
    assert f"{said} hides the package installed in {PACKAGE}: start Python" in child.stderr
    assert child.stderr.count("has no compiled kernels") == 1
    assert child.stderr.count("run without their kernels") == 1


def test_the_command_says_it_too(clone: Path) -> None:
    child = run(clone, "-m", "adadagrad_kernels", "info")
    assert child.returncode == 0
    assert "has no compiled kernels here" in child.stderr
    assert f"hides the package installed in {PACKAGE}" in child.stdout


def test_sources_that_hide_nothing_are_to_be_installed(clone: Path) -> None:
    code = "import sys; sys.path = [''] + [p for p in sys.path if not p.endswith('site-packages')]"
    # Torch is found where it is, the package is not: a finder for all else.
    code += """
import importlib.machinery, sysconfig
class Others(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        path = path or [sysconfig.get_paths()['purelib']]
        return super().find_spec(name, path, target)
sys.meta_path.append(Others)
import adadagrad_kernels
"""
    child = run(clone, "-c", code, found=None)
    assert child.returncode == 0, child.stderr
    assert f"the folder {clone / PACKAGE.name} has the sources alone: install" in child.stderr


def test_elsewhere_nothing_is_said(clone: Path) -> None:
    child = run(clone.parent, "-W", "error", "-c", USE)
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
