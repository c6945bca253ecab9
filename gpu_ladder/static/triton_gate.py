"""Takes apart what Triton compiles: kernels that a list names, for every architecture.

The list is that of a module with a function ``kernels()``, whose objects have ``name``,
``num_warps``, ``cubin(architecture)`` (bytes), ``ptx(architecture)`` (text) and
``shared(architecture)`` (bytes of a block, all of them asked for at launch).
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from gpu_ladder.static import machine_code, ptx_facts
from gpu_ladder.static.cuda_gate import ARCHITECTURES
from gpu_ladder.static.facts import Kernel
from gpu_ladder.static.occupancy import WARP_THREADS
from gpu_ladder.static.toolchain import Toolchain, ToolMissingError, require

MODULE = "gpu_ladder.triton_checks.compile"
GROUP = "Triton"


class TritonKernel(Protocol):
    """A kernel that Triton compiles ahead of time."""

    name: str
    num_warps: int

    def cubin(self, architecture: int) -> bytes:
        """Machine code."""

    def ptx(self, architecture: int) -> str:
        """What it was assembled from."""

    def shared(self, architecture: int) -> int:
        """Bytes of shared memory that a launch asks for."""


def missing(module: str = MODULE) -> str | None:
    """Why there are no Triton kernels to look at, or None."""
    if importlib.util.find_spec("triton") is None:
        return "no Triton; pip install -r requirements/cuda.txt"
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its package
        found = False
    return None if found else f"no module {module} names Triton kernels"


def gate(module: str = MODULE, architectures: Iterable[int] = ARCHITECTURES) -> list[Kernel]:
    """Every kernel that ``module.kernels()`` lists, for ``architectures``, in a fixed order.

    Raises:
        ToolMissingError: where Triton, the module or a tool is missing; ``missing`` says which.
    """
    reason = missing(module)
    if reason is not None:
        raise ToolMissingError(reason)
    tools = require()
    listing = getattr(importlib.import_module(module), "kernels", None)
    if listing is None:
        raise ToolMissingError(f"the module {module} has no kernels() that lists Triton kernels")
    listed: list[TritonKernel] = sorted(listing(), key=lambda kernel: kernel.name)
    return [examine(tools, kernel, number) for number in architectures for kernel in listed]


def examine(tools: Toolchain, kernel: TritonKernel, architecture: int) -> Kernel:
    """Facts of one kernel for one architecture.

    Raises:
        RuntimeError: where its machine code holds more or less than one kernel.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.cubin(architecture))
        instructions = machine_code.instructions(tools, cubin)
        resources = machine_code.resources(tools, cubin, architecture)
    facts = ptx_facts.read(kernel.ptx(architecture))
    if len(instructions) != 1 or set(instructions) != set(facts):
        raise RuntimeError(
            f"{kernel.name}, sm_{architecture}: the machine code holds "
            f"{', '.join(sorted(instructions)) or 'nothing'}, its PTX "
            f"{', '.join(sorted(facts)) or 'nothing'}; expected is the same one kernel in both"
        )
    [(entry, code)] = instructions.items()
    return Kernel(
        name=kernel.name,
        group=GROUP,
        architecture=architecture,
        threads=kernel.num_warps * WARP_THREADS,
        dynamic_shared_bytes=kernel.shared(architecture),
        resources=resources[entry],
        instructions=code,
        ptx=facts[entry],
    )
