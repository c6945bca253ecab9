"""Builds the native modules with CMake and ninja, and the description for package indexes.

All other metadata is in pyproject.toml.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()


class Build(build):
    """Asks for a compiler first: the line that says so is not below a copy of every file's name."""

    def run(self) -> None:
        _require_compiler()
        super().run()


class CMakeBuild(build_ext):
    """Runs one CMake build, which installs every native module beside the Python package."""

    def build_extension(self, ext: Extension) -> None:
        _require_compiler()
        build = Path(self.build_temp).resolve()
        destination = Path(self.get_ext_fullpath(ext.name)).parent.resolve()
        found = build.exists()
        try:
            self._build(build, destination)
        except subprocess.CalledProcessError as error:
            # What an earlier build left, one that failed half-way or by another CMake, may fit
            # neither this configuration nor its installation. A source that does not compile is
            # no such case: all else stays built while it is mended.
            if not found or "--build" in error.cmd:
                raise
            print(f"{build} does not fit this build: it is removed, and all is built afresh")
            shutil.rmtree(build)
            self._build(build, destination)

    def _build(self, build: Path, destination: Path) -> None:
        configure = [
            *("cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_INSTALL_PREFIX={destination}",
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            # Which the folder would remember from a build that was for one machine.
            "-DADAK_INSTRUCTION_SETS=",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)
        subprocess.run(["cmake", "--install", str(build), "--component", "python"], check=True)


def _require_compiler() -> None:
    """One line in the place of what CMake says."""
    named = os.environ.get("CXX", "")
    found = [shutil.which(name) for name in shlex.split(named)[:1] or ("c++", "g++", "clang++")]
    if not any(found):
        raise CompileError(
            f"no C++ compiler was found ({named or 'c++, g++, clang++'}): install one that knows "
            "C++20, such as g++ 11 or clang 14, or name it in CXX"
        )


def _description() -> str:
    """The README without its pictures, its links to files as the files' names.

    On an index nothing is beside it that they could lead to; the source distribution has the files.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:)([^)]*)\)", _name_of_file, text)


def _name_of_file(link: re.Match[str]) -> str:
    words, target = link.groups()
    return f"`{target}`" if target.endswith(words) else f"{words} (`{target}`)"


setup(
    long_description=_description(),
    long_description_content_type="text/markdown",
    ext_modules=[Extension("adadagrad_kernels._C", sources=[])],
    cmdclass={"build": Build, "build_ext": CMakeBuild},
)
