"""Arrays aligned as device memory is, compiled kernels, and kernels around a few lines of PTX."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpu_ladder.ptx import Module

KERNELS = Path(__file__).parent / "kernels"
ARCHITECTURES = ("80", "90", "100", "120")
ORDERS = ("forward", "reverse", "random")


def aligned(values: npt.ArrayLike, dtype: npt.DTypeLike = None) -> npt.NDArray[np.generic]:
    """A copy that begins at a multiple of 256 bytes."""
    source = np.asarray(values, dtype=dtype)
    memory = np.zeros(source.nbytes + 256, np.uint8)
    start = -memory.ctypes.data % 256
    result = memory[start : start + source.nbytes].view(source.dtype).reshape(source.shape)
    result[...] = source
    return result


def tool(name: str) -> str | None:
    """nvcc or ptxas: of the wheels of the Python registry, or on the path."""
    found = importlib.util.find_spec("nvidia")
    for root in found.submodule_search_locations or () if found else ():
        for candidate in Path(root).glob(f"cu*/bin/{name}"):
            return str(candidate)
    return shutil.which(name)


def has(name: str) -> bool:
    """Whether there is such a tool."""
    return tool(name) is not None


@functools.cache
def compiled(source: str, architecture: str) -> Module:
    """A file of `kernels`, as nvcc translates it for an architecture."""
    nvcc = tool("nvcc")
    if nvcc is None:
        raise RuntimeError("nvcc is missing")
    command = [nvcc, "-O3", "-std=c++20", "-lineinfo", "--fmad=false", "-ptx", "-o", "-"]
    command += [f"-arch=compute_{architecture}", str(KERNELS / source)]
    library = Path(nvcc).resolve().parents[1] / "lib"
    environment = {**os.environ, "NVCC_PREPEND_FLAGS": f"-L{library}"}
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Module(text.stdout)


def ptx_module(body: str, target: str = "sm_100a") -> Module:
    """A module around the given kernels."""
    return Module(f".version 9.0\n.target {target}\n.address_size 64\n{body}")


def entry(lines: Sequence[str], params: int = 2, name: str = "kernel") -> str:
    """A kernel whose parameters %p0, %p1, ... are pointers, already loaded."""
    declared = ", ".join(f".param .u64 {name}_{index}" for index in range(params))
    loads = "\n".join(f"  ld.param.u64 %p{index}, [{name}_{index}];" for index in range(params))
    body = "\n".join(f"  {line}" for line in lines)
    return (
        f".visible .entry {name}({declared}) {{\n  .reg .b64 %p<{params + 1}>;\n"
        f"{loads}\n{body}\n  ret;\n}}\n"
    )
