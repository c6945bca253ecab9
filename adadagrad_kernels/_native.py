"""Loads the compiled module once, and says why where it cannot."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

# Torch first: the kernels share its OpenMP runtime, which must be in the process by then.
import torch

from adadagrad_kernels.errors import BackendUnavailableError

_VARIABLE = "ADADAGRAD_KERNELS_ISA"

C: ModuleType | None = None
missing: str | None = None

try:
    from adadagrad_kernels import _C
except ImportError as error:
    missing = (
        f"the compiled module adadagrad_kernels._C could not be imported ({error}); "
        "install the package with `pip install .`"
    )
else:
    C = _C


def openmp_runtimes() -> list[str]:
    """The OpenMP libraries mapped into this process; two of them would fight over the cores."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return []
    files = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "/" in line}
    return sorted(f for f in files if Path(f).name.startswith(("libgomp", "libiomp", "libomp")))


def instruction_sets() -> dict[str, object]:
    """The instruction sets compiled in, those this machine runs, and the active one."""
    if C is None:
        return {"compiled": [], "supported": [], "active": None}
    return {
        "compiled": C.compiled_isas(),
        "supported": C.supported_isas(),
        "active": C.active_isa(),
    }


def use_isa(name: str) -> None:
    """Run the CPU kernels with one instruction set: ``scalar``, ``avx2`` or ``avx512``.

    Raises:
        BackendUnavailableError: where it was not compiled in or this machine lacks it.
    """
    if C is None:
        raise BackendUnavailableError(missing)
    supported = C.supported_isas()
    if name not in supported:
        raise BackendUnavailableError(
            f"the instruction set {name!r} is not available: compiled in are "
            f"{', '.join(C.compiled_isas())}, and this machine runs {', '.join(supported)}"
        )
    C.use_isa(name)


def _initialise() -> None:
    if C is None:
        return
    for path in openmp_runtimes():
        if C.use_openmp(path):
            break
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # torch >= 2.10
    if exchange is not None:
        C.use_tensor_exchange(exchange, (torch.Tensor, torch.nn.Parameter))
    asked = os.environ.get(_VARIABLE)
    if asked:
        use_isa(asked)


_initialise()
