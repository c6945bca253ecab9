"""These tests run beside the benchmarks; away from the sources every file is skipped, saying so."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_configure() -> None:
    """Let ``benchmarks`` be the folder of the sources: Opacus, a peer, installs one of that name.

    The folder does not stay on the path, where the sources would hide the installed package.
    """
    if (ROOT / "benchmarks").is_dir():
        sys.path.insert(0, str(ROOT))
        importlib.import_module("benchmarks")
        sys.path.remove(str(ROOT))


class _Skipped(pytest.Module):
    def collect(self) -> list[pytest.Item]:
        pytest.skip("no benchmarks here: these tests run outside the source tree")


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Module | None:
    """None leaves it to pytest, which imports the module and so the benchmarks."""
    if (ROOT / "benchmarks").is_dir():
        return None
    return _Skipped.from_parent(parent, path=module_path)
