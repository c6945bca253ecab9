"""Finds nvcc, the disassembler and CUDA's headers; says what is missing and how to get it."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gpu_ladder.places import IN_CLONE

#: What brings all that is missing here.
PIP_INSTALL = (
    "pip install -r requirements/cuda.txt"
    if IN_CLONE
    else "pip install nvidia-cuda-nvcc nvidia-cuda-cccl triton, or CUDA's toolkit"
)

#: Files that the compiler's own driver starts or reads, and the package that brings each.
_PARTS = {
    "nvvm/bin/cicc": "nvidia-nvvm",
    "include/crt/host_config.h": "nvidia-cuda-crt",
    "include/cuda_runtime.h": "nvidia-cuda-runtime",
}


class ToolMissingError(RuntimeError):
    """A tool of the gate is not on this machine; the message says where it was looked for."""


@dataclass(frozen=True)
class Compiler:
    """What makes PTX and machine code.

    Attributes:
        nvcc: the compiler.
        nvcc_flags: what the compiler needs to find its own libraries.
        nvcc_version: such as ``13.0.88``.
    """

    nvcc: Path
    nvcc_flags: tuple[str, ...]
    nvcc_version: str


@dataclass(frozen=True)
class Toolchain(Compiler):
    """What the gate runs: the compiler, and what takes its results apart.

    Attributes:
        cuobjdump: prints the resources of a cubin.
        nvdisasm: prints its machine code.
        nvdisasm_version: such as ``13.1.80``.
        cxxfilt: demangles names.
        include: folders with CUDA's headers, for host programs.
    """

    cuobjdump: Path
    nvdisasm: Path
    nvdisasm_version: str
    cxxfilt: Path
    include: Path


@functools.cache
def require_compiler() -> Compiler:
    """The compiler alone.

    Raises:
        ToolMissingError: as `require` does.
    """
    nvcc = _nvcc()
    # nvcc's own profile looks for its libraries in lib64; the Python packages have lib.
    flags = () if (_root(nvcc) / "lib64").is_dir() else (f"-L{_root(nvcc) / 'lib'}",)
    return Compiler(nvcc, flags, _version([str(nvcc), "--version"], r"\bV(\d+\.\d+\.\d+)"))


@functools.cache
def require() -> Toolchain:
    """All tools, or an error that names the first one missing.

    Raises:
        ToolMissingError: with what is missing, where it was looked for and how to get it.
    """
    compiler = require_compiler()
    nvdisasm = _binary_tool("nvdisasm")
    return Toolchain(
        nvcc=compiler.nvcc,
        nvcc_flags=compiler.nvcc_flags,
        nvcc_version=compiler.nvcc_version,
        cuobjdump=_binary_tool("cuobjdump"),
        nvdisasm=nvdisasm,
        nvdisasm_version=_version([str(nvdisasm), "--version"], r"\bV(\d+\.\d+\.\d+)"),
        cxxfilt=_on_path("c++filt", "it comes with every C++ compiler (Debian: binutils)"),
        include=_include(_root(compiler.nvcc)),
    )


def missing() -> str | None:
    """Why the gate cannot run here, or None."""
    try:
        require()
    except ToolMissingError as error:
        return str(error)
    return None


def cuda_wheels() -> list[Path]:
    """The folders in which NVIDIA's Python packages keep CUDA, newest version first."""
    spec = importlib.util.find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    folders = [folder for place in places for folder in Path(place).glob("cu[0-9]*")]
    return sorted(folders, key=lambda folder: folder.name, reverse=True)


def occupancy_header() -> Path | None:
    """CUDA's own calculation of occupancy, a header for host programs, where it is installed."""
    for root in [*cuda_wheels(), *_roots_on_path()]:
        if (root / "include/cuda_occupancy.h").is_file():
            return root / "include/cuda_occupancy.h"
    return None


def _nvcc() -> Path:
    for variable in ("CUDACXX", "NVCC"):
        given = os.environ.get(variable)
        if given:
            found = shutil.which(given)
            if found is None:
                raise ToolMissingError(
                    f"{variable} is {given!r}, which is no program; set it to nvcc's path, or "
                    "unset it"
                )
            return Path(found)
    for root in cuda_wheels():
        if (root / "bin/nvcc").is_file():
            _require_parts(root)
            return root / "bin/nvcc"
    found = shutil.which("nvcc")
    if found is None:
        raise ToolMissingError(
            "no nvcc: not in CUDACXX or NVCC, not in the Python package nvidia-cuda-nvcc, not on "
            f"PATH; {PIP_INSTALL}"
        )
    return Path(found)


def _require_parts(root: Path) -> None:
    for part, package in _PARTS.items():
        if not (root / part).is_file():
            raise ToolMissingError(
                f"no nvcc: the Python package nvidia-cuda-nvcc is installed, but {package}, "
                f"which brings {part}, is not; {PIP_INSTALL}"
            )


def _root(nvcc: Path) -> Path:
    """The folder of the toolkit that ``nvcc``, perhaps a link or a wrapper, belongs to."""
    dry = subprocess.run(
        [str(nvcc), "--dryrun", "-cubin", "-o", "none", "none.cu"], capture_output=True, text=True
    )
    named = re.search(r"^#\$ (?:TOP|_TARGET_DIR_ROOT_)=(.+)$", dry.stderr, re.MULTILINE)
    root = Path(named.group(1)) if named else nvcc.resolve().parent.parent
    return root.resolve()


def _binary_tool(name: str) -> Path:
    """``cuobjdump`` or ``nvdisasm``: Triton brings both, so do packages of their own."""
    spec = importlib.util.find_spec("triton")
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    folders = [place / "backends/nvidia/bin" for place in places]
    folders += [root / "bin" for root in cuda_wheels()]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    return _on_path(name, f"Triton brings it; {PIP_INSTALL}")


def _on_path(name: str, advice: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise ToolMissingError(f"no {name}: not in a Python package, not on PATH; {advice}")
    return Path(found)


def _include(root: Path) -> Path:
    for candidate in (root / "include", root / "targets/x86_64-linux/include"):
        if (candidate / "cuda_runtime.h").is_file():
            return candidate
    raise ToolMissingError(
        f"no cuda_runtime.h beside nvcc; {PIP_INSTALL} brings nvcc and headers that belong together"
    )


def _roots_on_path() -> list[Path]:
    found = shutil.which("nvcc")
    return [_root(Path(found))] if found else []


def _version(command: list[str], pattern: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(pattern, done.stdout)
    if found is None:
        raise ToolMissingError(
            f"{command[0]} does not run here (exit status {done.returncode}): "
            f"{(done.stderr or done.stdout).strip()[:200]}"
        )
    return found.group(1)
