"""The build of the GPU report: what was compiled before it was cut off is not compiled again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("pybind11", reason="pybind11 is not installed")

from benchmarks.gpu import build

#: Keeps its arguments; configures unless a file forbids it, and makes a module.
CMAKE = """#!{python}
import json, sys
from pathlib import Path
folder, words = Path({folder!r}), sys.argv[1:]
with (folder / "said.jsonl").open("a") as log:
    print(json.dumps(words), file=log)
if "--build" in words:
    (Path(words[1]) / "_C.made.so").write_text("compiled")
elif (folder / "stale").exists() and "--fresh" not in words:
    sys.exit("CMake Error: a compiler of the cache is gone")
else:
    Path(words[words.index("-B") + 1]).mkdir(parents=True, exist_ok=True)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a program in CMake's place."""
    cmake = tmp_path / "cmake"
    cmake.write_text(CMAKE.format(python=sys.executable, folder=str(tmp_path)), "utf-8")
    cmake.chmod(0o755)
    monkeypatch.setattr(build, "program", lambda name: str(cmake))
    (tmp_path / "package").mkdir()
    return tmp_path


def _built(folder: Path) -> list[list[str]]:
    """Build a module; the command lines of CMake."""
    log = folder / "said.jsonl"
    log.unlink(missing_ok=True)
    assert build._module("_C", folder / "objects", folder / "package", "9.0") is None
    assert [file.name for file in (folder / "package").iterdir()] == ["_C.made.so"]
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def _objects(configure: list[str]) -> str:
    return configure[configure.index("-B") + 1]


def test_a_build_goes_on_in_its_folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It never asks for a fresh one, which would remove the objects."""
    first, second = _built(made), _built(made)
    assert first == second
    assert [words[0] for words in first] == ["-S", "--build"]
    assert not any("--fresh" in words for words in first)
    monkeypatch.setitem(os.environ, "CXX", "another")
    assert _objects(_built(made)[0]) != _objects(first[0])


def test_what_a_failure_left_is_no_obstacle(made: Path) -> None:
    (made / "stale").touch()
    said = _built(made)
    assert [("--fresh" in words, "--build" in words) for words in said] == [
        (False, False), (True, False), (False, True),
    ]  # fmt: skip
    assert _objects(said[0]) == _objects(said[1]) == said[2][1]
