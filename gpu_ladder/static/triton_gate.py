"""Takes apart what Triton compiles: kernels that a list names, for every architecture.

The list is that of a module with a function ``kernels()``, whose objects have ``name``,
``num_warps``, ``cubin(architecture)`` (bytes), ``ptx(architecture)`` (text) and
``shared(architecture)`` (bytes of a block, all of them asked for at launch).
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Protocol

from gpu_ladder.static import kept, ptx_facts
from gpu_ladder.static.cuda_gate import ARCHITECTURES, AT_A_TIME, CACHE
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


def gate(
    module: str = MODULE, architectures: Iterable[int] = ARCHITECTURES, cache: Path = CACHE
) -> list[Kernel]:
    """Every kernel that ``module.kernels()`` lists, for ``architectures``, in a fixed order.

    Raises:
        ToolMissingError: where Triton, the module or a tool is missing; ``missing`` says which.
    """
    reason = missing(module)
    if reason is not None:
        raise ToolMissingError(reason)
    require()
    # Triton holds Python's lock while it compiles: processes, each for architectures of its own.
    context = multiprocessing.get_context("spawn")
    jobs = [(module, architecture, cache) for architecture in architectures]
    with ProcessPoolExecutor(AT_A_TIME, mp_context=context) as pool:
        return [kernel for kernels in pool.map(_gate_one, jobs) for kernel in kernels]


def _gate_one(job: tuple[str, int, Path]) -> list[Kernel]:
    """All kernels for one architecture."""
    module, architecture, cache = job
    listing = getattr(importlib.import_module(module), "kernels", None)
    if listing is None:
        raise ToolMissingError(f"the module {module} has no kernels() that lists Triton kernels")
    listed: list[TritonKernel] = sorted(listing(), key=lambda kernel: kernel.name)
    return [examine(require(), kernel, architecture, cache) for kernel in listed]


def examine(
    tools: Toolchain, kernel: TritonKernel, architecture: int, cache: Path = CACHE
) -> Kernel:
    """Facts of one kernel for one architecture.

    Raises:
        RuntimeError: where its machine code holds more or less than one kernel.
    """
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.cubin(architecture))
        code = kept.read(tools, cubin, architecture, cache)
    facts = ptx_facts.read(kernel.ptx(architecture))
    if len(code) != 1 or set(code) != set(facts):
        raise RuntimeError(
            f"{kernel.name}, sm_{architecture}: the machine code holds "
            f"{', '.join(sorted(code)) or 'nothing'}, its PTX "
            f"{', '.join(sorted(facts)) or 'nothing'}; expected is the same one kernel in both"
        )
    [(entry, (resources, instructions))] = code.items()
    return Kernel(
        name=kernel.name,
        group=GROUP,
        architecture=architecture,
        threads=kernel.num_warps * WARP_THREADS,
        dynamic_shared_bytes=kernel.shared(architecture),
        resources=resources,
        instructions=instructions,
        ptx=facts[entry],
    )
