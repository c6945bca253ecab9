"""Builds CUDA sources for the CPU, by the ladder's CMakeLists.txt, where not up to date."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from gpu_ladder.places import PACKAGE, build_folder

FLAVOURS = ("plain", "checked", "sanitized")
_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


class BuildError(RuntimeError):
    """A source does not compile against the models; the message is the compiler's."""


def build(flavour: str, target: str = "_C_cuda") -> Path:
    """Builds a target of ``gpu_ladder/CMakeLists.txt`` where it is not up to date."""
    directory = _directory(flavour)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "build.ninja").exists():
            _run(_configure_command(directory, flavour))
        _run([_tool("cmake"), "--build", str(directory), "--target", target])
    return directory / (target + _SUFFIX)


def build_source(flavour: str, source: Path, include: Sequence[Path] = ()) -> Path:
    """Builds one .cu file, and what it includes, as a library of its own.

    Args:
        flavour: one of ``FLAVOURS``.
        source: the file.
        include: folders in which its headers are looked for.

    Raises:
        BuildError: with what the compiler said.
    """
    directory = _directory(flavour)
    folders = [str(folder.resolve()) for folder in include]
    digest = hashlib.sha256("\0".join([str(source.resolve()), *folders]).encode()).hexdigest()
    target = f"{source.stem}_{digest[:16]}"
    chosen = [
        f"-DGPU_LADDER_SOURCE={source.resolve()}",
        f"-DGPU_LADDER_TARGET={target}",
        f"-DGPU_LADDER_INCLUDE={';'.join(folders)}",
    ]
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run([*_configure_command(directory, flavour), *chosen])
        _run([_tool("cmake"), "--build", str(directory), "--target", target])
    return directory / (target + _SUFFIX)


def _directory(flavour: str) -> Path:
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour is {flavour!r}; accepted are {', '.join(FLAVOURS)}")
    directory = build_folder() / flavour
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _tool(name: str) -> str:
    """CMake or ninja: of this interpreter's environment, or on the path."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise RuntimeError(
            f"CUDA sources are built for the CPU by {name}, which is not on the path: "
            f"pip install {name}"
        )
    return found


def _configure_command(directory: Path, flavour: str) -> list[str]:
    command = [
        *(_tool("cmake"), "-S", str(PACKAGE), "-B", str(directory), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}",
        f"-DGPU_LADDER_FLAVOUR={flavour}",
        f"-DGPU_LADDER_SUFFIX={_SUFFIX}",
    ]
    # For what has bindings; a library does without.
    if importlib.util.find_spec("pybind11") is not None:
        import pybind11

        command.append(f"-DPython_EXECUTABLE={sys.executable}")
        command.append(f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
    return command


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
