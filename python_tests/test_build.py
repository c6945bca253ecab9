"""The build driver, setup.py, on a small project; the options of the real one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.instruction_sets import FOREIGN_ISA, ISAS

pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")

ROOT = Path(__file__).parent.parent
if not (ROOT / "setup.py").exists():
    pytest.skip("no setup.py here: the tests run away from the sources", allow_module_level=True)
BIN = str(Path(sys.executable).parent)
PATH = os.pathsep.join([BIN, os.environ.get("PATH", "")])
for tool in ("cmake", "ninja", "c++"):
    if shutil.which(tool, path=PATH) is None:
        pytest.skip(f"{tool} is not installed", allow_module_level=True)

CMAKE = """
cmake_minimum_required(VERSION 3.24)
project(small LANGUAGES CXX)
add_library(other SHARED other.cpp)
add_library(_C MODULE module.cpp)
target_link_libraries(_C PRIVATE other)
install(TARGETS _C LIBRARY DESTINATION . COMPONENT python)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose module knows a library by a path, which the installation removes."""
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "CMakeLists.txt").write_text(CMAKE)
    (tmp_path / "other.cpp").write_text("int other() { return 1; }\n")
    (tmp_path / "module.cpp").write_text("int other();\nint module() { return other(); }\n")
    return tmp_path


def build(project: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext"],
        cwd=project,
        env={**os.environ, "PATH": PATH, "CMAKE_ARGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


def built(project: Path) -> Path:
    (module,) = project.glob("build/temp.*/lib_C.so")
    return module


def installed(project: Path) -> Path:
    (module,) = project.glob("build/lib.*/adadagrad_kernels/lib_C.so")
    return module


def assert_builds(project: Path, *, afresh: bool) -> None:
    child = build(project)
    assert child.returncode == 0, child.stderr
    assert ("built afresh" in child.stdout) == afresh
    assert installed(project).stat().st_size > 0


def test_a_module_of_a_build_that_failed_is_built_afresh(project: Path) -> None:
    """Linked for another place, it has not the path that the installation is to change."""
    assert_builds(project, afresh=False)
    module = built(project)
    other = ["-shared", "-Wl,-rpath,/nowhere", "-x", "c++", "/dev/null", "-o", str(module)]
    subprocess.run(["c++", *other], check=True)
    os.utime(module, (2**31 - 1, 2**31 - 1))  # newer than what it is made of
    assert_builds(project, afresh=True)
    assert_builds(project, afresh=False)


def test_a_cache_of_another_folder_is_built_afresh(project: Path) -> None:
    """As in a copy of a folder in which something was built."""
    assert_builds(project, afresh=False)
    (cache,) = project.glob("build/temp.*/CMakeCache.txt")
    cache.write_text(cache.read_text().replace(str(project), "/nowhere"))
    assert_builds(project, afresh=True)


def test_a_source_that_does_not_compile_leaves_the_rest_built(project: Path) -> None:
    assert_builds(project, afresh=False)
    (library,) = project.glob("build/temp.*/libother.so")
    before = library.stat().st_mtime_ns
    source = (project / "module.cpp").read_text()
    (project / "module.cpp").write_text("int module() { return missing; }\n")
    assert build(project).returncode != 0
    (project / "module.cpp").write_text(source)
    assert_builds(project, afresh=False)
    assert library.stat().st_mtime_ns == before


@pytest.mark.parametrize("command", ["build", "build_ext"])
def test_without_a_compiler_one_line_says_so(project: Path, tmp_path: Path, command: str) -> None:
    """And first: pip shows all that a build that failed has printed."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("cmake", "ninja"):
        (tools / tool).symlink_to(str(shutil.which(tool, path=PATH)))
    environment = {key: value for key, value in os.environ.items() if key != "CXX"}
    child = subprocess.run(
        [sys.executable, "setup.py", command],
        cwd=project,
        env={**environment, "PATH": str(tools), "CMAKE_ARGS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode != 0
    assert "error: no C++ compiler was found (c++, g++, clang++): install one" in child.stderr
    assert "Traceback" not in child.stderr
    assert child.stdout.split() == ["running", command]


def configured(folder: Path, sets: str) -> subprocess.CompletedProcess[str]:
    """The package's own build as CMake sets it up, where nothing is compiled."""
    return subprocess.run(
        [
            *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DADAK_CUDA=OFF",
            f"-DADAK_INSTRUCTION_SETS={sets}",
        ],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("sets", [ISAS[1], "scalar", ""])
def test_instruction_sets_are_those_asked_for_and_scalar(tmp_path: Path, sets: str) -> None:
    done = configured(tmp_path, sets)
    assert done.returncode == 0, done.stderr
    compiled = re.findall(
        r"^build \S+isa/(\w+)\.cpp\.o", (tmp_path / "build.ninja").read_text(), re.M
    )
    assert sorted(compiled) == sorted({"scalar", sets} if sets else ISAS)


def test_an_instruction_set_of_another_processor_is_refused(tmp_path: Path) -> None:
    done = configured(tmp_path, FOREIGN_ISA)
    assert done.returncode != 0
    said = " ".join(done.stderr.split())
    known = ", ".join(["scalar", *reversed(ISAS[1:])])
    assert f"names {FOREIGN_ISA}; for this processor there are: {known}" in said
