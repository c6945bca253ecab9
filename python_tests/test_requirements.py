"""What each target of the Makefile installs, and that the files it installs agree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
if not (ROOT / "Makefile").exists():
    pytest.skip("no Makefile here: the tests run away from the sources", allow_module_level=True)
if shutil.which("make") is None:
    pytest.skip("make is not installed", allow_module_level=True)

#: All but those of the emulated processor, whose torch is another and which no target installs.
FILES = sorted({path.name for path in (ROOT / "requirements").iterdir()} - {"neon.txt"})
DEMO = ["build.txt", "demo.txt"]
#: What the demonstration has no use for, by the beginning of a name.
HEAVY = ("nvidia", "triton", "transformers", "peft", "bitsandbytes", "opacus", "wandb", "pytest")


def make(
    folder: Path, *arguments: str, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the Makefile of the sources in a folder where nothing was made yet."""
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    for name in ("CMakeLists.txt", "setup.py", "pyproject.toml"):
        (folder / name).touch()
    (folder / "csrc").mkdir()
    (folder / "gpu_ladder").mkdir()
    (folder / "adadagrad_kernels").mkdir()
    kept = {key: os.environ[key] for key in os.environ.keys() - {"CXX", "MAKEFLAGS", "MAKELEVEL"}}
    return subprocess.run(
        [str(shutil.which("make")), *arguments],
        cwd=folder,
        env=kept if path is None else {**kept, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("target", "installed"),
    [("demo", DEMO), ("install", DEMO), ("test", FILES), ("develop", FILES)],
)
def test_a_target_installs_what_it_needs(tmp_path: Path, target: str, installed: list[str]) -> None:
    planned = make(tmp_path, "--dry-run", target)
    assert planned.returncode == 0, planned.stderr
    assert sorted(set(re.findall(r"requirements/(\w+\.txt)", planned.stdout))) == installed


def test_the_demonstration_brings_nothing_heavy() -> None:
    named = {package: version for name in DEMO for package, version in pins(name).items()}
    needed = {"torch", "numpy", "scikit-learn", "matplotlib", "tqdm", "cmake", "ninja"}
    assert needed <= named.keys()
    assert not [name for name in named if name.lower().startswith(HEAVY)]
    assert len(named) < 40


def test_a_package_has_one_version_in_all_files() -> None:
    versions: dict[str, set[str]] = {}
    for name in FILES:
        for package, version in pins(name).items():
            versions.setdefault(package.lower(), set()).add(version)
    assert len(versions) > 60
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_without_a_compiler_make_says_so_before_it_installs_anything(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "find", "grep", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    clone = tmp_path / "clone"
    clone.mkdir()
    child = make(clone, "demo", path=str(tools))
    assert child.returncode != 0
    said, ended = child.stderr.splitlines()
    assert said.startswith("no C++ compiler was found (c++, g++, clang++): install one that knows")
    assert "Error 1" in ended
    assert not (clone / ".venv").exists()
