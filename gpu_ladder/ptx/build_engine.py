"""Builds the engine with the host's compiler, once for each state of its sources."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

from gpu_ladder.places import PACKAGE, build_folder

_ENGINE = PACKAGE / "ptx" / "engine"
_RUNTIME = PACKAGE / "runtime"
_CACHE = build_folder()
# Lanes are loops for the vectoriser. No contraction: an fma is one only where PTX says so. The
# rounding mode changes at run time.
_FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-frounding-math",
    "-fno-math-errno",
    "-fPIC",
    "-Wall",
    "-Wextra",
)
# Hundreds of small loops that are seldom run: not worth the compiler's time.
_LIGHT = {"conversions.cpp": ("-O1",)}


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def engine_library(compiler: str = "g++") -> Path:
    """The shared library of the engine, built if its sources have changed.

    Args:
        compiler: A C++20 compiler.

    Returns:
        Its path, in ``places.build_folder()``.

    Raises:
        RuntimeError: If the compiler is missing or fails; the message holds its output.
    """
    sources = sorted(_ENGINE.glob("*.cpp"))
    sources += [path for path in sorted(_RUNTIME.glob("memory_*.cpp"))]
    headers = sorted(_ENGINE.glob("*.h")) + sorted(_RUNTIME.glob("memory_*.h"))
    digest = hashlib.sha256(f"{compiler} {_FLAGS} {_LIGHT} {_processor()}".encode())
    for path in (*sources, *headers):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    library = _CACHE / f"ptx_engine_{digest.hexdigest()[:20]}.so"
    if library.exists():
        return library
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_CACHE) as folder:
        objects = []
        for source in sources:
            target = Path(folder) / f"{source.stem}.o"
            flags = (*_FLAGS, *_LIGHT.get(source.name, ()))
            _run([compiler, *flags, "-c", str(source), "-o", str(target)])
            objects.append(str(target))
        finished = Path(folder) / library.name
        _run([compiler, "-shared", *objects, "-o", str(finished)])
        os.replace(finished, library)
    return library


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise RuntimeError(
            f"the PTX machine needs a C++ compiler, and there is no {command[0]!r}: install g++ 12 "
            "or newer"
        ) from error
    if result.returncode != 0:
        raise RuntimeError(f"building the PTX machine failed: {' '.join(command)}\n{result.stderr}")
