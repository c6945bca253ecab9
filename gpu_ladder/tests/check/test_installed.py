"""The ladder installed as a package of its own: it runs in any folder, and builds in a cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpu_ladder.places import PACKAGE


@pytest.mark.nightly
def test_the_package_checks_a_kernel_away_from_the_sources(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("tests", "results", "build", "*.egg-info", "__pycache__")
    shutil.copytree(PACKAGE, source, ignore=ignored)
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    alone = ["--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *alone, str(source)], check=True)
    elsewhere.mkdir()
    for name in ("sums.cu", "sums.py"):
        shutil.copy(PACKAGE / "examples" / name, elsewhere / name)
    environment = {**os.environ, "PYTHONPATH": str(site), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "gpu_ladder", "check", "sums.cu", "--json"]
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    answers = json.loads(done.stdout)["rungs"]
    for answer in answers.values():
        assert "race" in {one["kind"] for one in answer["result"]["findings"]}, answer
    assert (tmp_path / "cache" / "gpu_ladder" / "checked").is_dir()
    where = "import gpu_ladder; print(gpu_ladder.__file__)"
    told = subprocess.run([sys.executable, "-c", where], cwd=elsewhere, env=environment,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert Path(told.stdout.strip()).is_relative_to(site)
