"""Builds the package from this clone with what the machine has: CMake, ninja, pybind11, nvcc.

No environment is made and nothing is downloaded: CMake builds into the report's folder, for the GPU
at hand alone, and the compiled modules are put beside a copy of the Python sources. Each module
is built for itself, so that one that does not compile leaves the other. A build that was cut off
goes on the next time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.folder import ROOT
from benchmarks.gpu.job import Job

#: The CUDA kernels first: they are what the report is of.
MODULES = ("_C_cuda", "_C")


def run(job: Job) -> None:
    """Build what can be built, and keep for each module whether it is there.

    Raises:
        RuntimeError: where no module could be built.
    """
    package = job.folder.package / "adadagrad_kernels"
    capability = next(r["capability"] for r in job.folder.results("device"))  # such as 9.0
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "adadagrad_kernels", package, ignore=ignored, dirs_exist_ok=True)

    def one(module: str) -> bool:
        why = _module(module, job.folder.path / "build" / module, package, capability)
        job.keep(module=module, missing=why)
        return why is None

    with ThreadPoolExecutor() as pool:
        if not any(list(pool.map(one, MODULES))):
            raise RuntimeError("no module could be built")


def _module(module: str, objects: Path, package: Path, capability: str) -> str | None:
    """Configure, compile and link one module, and put it into the package; why not, or None."""
    for old in package.glob(f"{module}.*.so"):
        old.unlink()
    missing = [name for name in ("cmake", "ninja") if program(name) is None]
    if missing:
        return f"no {' and no '.join(missing)} on this machine"
    if importlib.util.find_spec("pybind11") is None:
        return "this Python has no pybind11"
    import pybind11

    options = ["-DADAK_CUDA=OFF"]
    if module == "_C_cuda":
        architecture = capability.replace(".", "")
        options = ["-DADAK_CUDA=ON", f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real"]
    configure = [
        str(program("cmake")), "-S", str(ROOT), "-G", "Ninja",
        "-DCMAKE_BUILD_TYPE=Release", f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        *options,
    ]  # fmt: skip
    objects = objects / _key(configure)
    # What a build that was cut off has compiled is kept; what a failure has left in CMake's cache
    # is not.
    failed = (
        _run(*configure, "-B", str(objects))
        and _run(*configure, "--fresh", "-B", str(objects))
    ) or _run(str(program("cmake")), "--build", str(objects), "--target", module)  # fmt: skip
    if failed is not None:
        return failed
    for file in objects.glob(f"{module}.*.so"):
        shutil.copy(file, package)
        return None
    return f"CMake made no {module}"


def _key(configure: Sequence[str]) -> str:
    """A folder's name for objects of one Python, its packages, and one choice of compilers."""
    compilers = (os.environ.get(name, "") for name in ("CXX", "CUDACXX", "CXXFLAGS", "CUDAFLAGS"))
    return hashlib.sha256("\n".join((*configure, *compilers)).encode()).hexdigest()[:12]


def _run(*command: str) -> str | None:
    """Run a program, its output into the log; the line that says what failed, or None."""
    print("+", *command, flush=True)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    print(done.stdout, flush=True)
    return None if done.returncode == 0 else _reason(done.stdout.splitlines())


def _reason(lines: Sequence[str]) -> str:
    """The error, as far as its paragraph goes, or the last line."""
    texts = [line.strip() for line in lines]
    for start, text in enumerate(texts):
        if "error" in text.lower():
            end = texts.index("", start) if "" in texts[start + 1 :] else len(texts)
            return " ".join(texts[start:end])[:300]
    return next((text for text in reversed(texts) if text), "(no output)")


def program(name: str) -> str | None:
    """A program beside this Python, where packages put theirs, or on the path."""
    beside = os.pathsep.join((sysconfig.get_path("scripts"), str(Path(sys.executable).parent)))
    return shutil.which(name, path=beside) or shutil.which(name)
