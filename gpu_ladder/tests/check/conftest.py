"""The command in a process of its own, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpu_ladder.places import PACKAGE

Checked = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "gpu_ladder", *map(str, arguments)]
        given = {"cwd": PACKAGE.parent, "timeout": 300, **options}
        return subprocess.run(line, capture_output=True, text=True, check=False, **given)

    return run


@pytest.fixture
def checked(command: Callable[..., subprocess.CompletedProcess[str]]) -> Checked:
    """Exit status, and what each rung said."""

    def run(source: Path | str, *options: str) -> tuple[int, dict[str, Any]]:
        done = command("check", source, "--json", *options)
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)["rungs"]

    return run
