"""Loads the compiled modules once, and says why where it cannot."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

# Torch first: the kernels share its OpenMP runtime, which must be in the process by then.
import torch

from adadagrad_kernels.errors import BackendUnavailableError

_VARIABLE = "ADADAGRAD_KERNELS_ISA"

C: ModuleType | None = None
missing: str | None = None
#: Why the instruction set that the environment names cannot run. Raised by what runs an op.
isa_refused: str | None = None
C_cuda: ModuleType | None = None
cuda_missing: str | None = None


def _has_kernels(folder: Path) -> bool:
    return any((folder / f"_C{ending}").exists() for ending in EXTENSION_SUFFIXES)


def _what_to_do(folder: Path) -> tuple[str, bool]:
    """The remedy for a package without kernels, and whether it is in the way of another.

    Python looks first in the folder that it was started in, so that in the folder of a clone it
    finds the sources, and not what `pip install .` has installed.
    """
    if not _has_kernels(folder):
        for other in (Path(entry or ".").absolute() / folder.name for entry in sys.path):
            if _has_kernels(other):
                return (
                    f"the folder {folder} hides the package installed in {other}: start Python in "
                    "another folder"
                ), True
        if (folder.parent / "CMakeLists.txt").exists():
            return (
                f"the folder {folder} has the sources alone: install the package with `pip install "
                ".`, and start Python in another folder"
            ), True
    return "install the package with `pip install .`", False


try:
    # By its full name: `from adadagrad_kernels import` would blame a circular import.
    C = importlib.import_module("adadagrad_kernels._C")
except ImportError as error:
    _remedy, _hides = _what_to_do(Path(__file__).absolute().parent)
    missing = f"the compiled module adadagrad_kernels._C could not be imported ({error}); {_remedy}"
    if _hides:
        warnings.warn(
            f"adadagrad_kernels has no compiled kernels here; {_remedy}",
            RuntimeWarning,
            stacklevel=2,
        )

try:
    C_cuda = importlib.import_module("adadagrad_kernels._C_cuda")
except ImportError as error:
    cuda_missing = (
        f"the compiled module adadagrad_kernels._C_cuda could not be imported ({error}); it is "
        "built where nvcc is found: install the package from source with CMAKE_ARGS=-DADAK_CUDA=ON"
    )


def openmp_runtimes() -> list[str]:
    """The OpenMP libraries mapped into this process, torch's and those of other packages."""
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


def cuda_unavailable() -> str | None:
    """Why the CUDA kernels cannot run here, or None. Asks the driver, which starts CUDA."""
    if C_cuda is None:
        return cuda_missing
    compiled_for, driver, devices, error = C_cuda.runtime_info()
    if driver == 0:
        return "no NVIDIA driver is installed"
    if driver // 1000 < compiled_for // 1000:  # within a major version CUDA is compatible
        return (
            f"the NVIDIA driver supports CUDA {_version(driver)}, and these kernels were built "
            f"with {_version(compiled_for)}; update the driver, or build with an older toolkit"
        )
    if devices == 0:
        return f"CUDA finds no device ({error or 'none is visible'})"
    return None


def _version(number: int) -> str:
    """1000 * major + 10 * minor, as CUDA counts."""
    return f"{number // 1000}.{number % 1000 // 10}"


def use_isa(name: str) -> None:
    """Run the CPU kernels with one instruction set.

    ``scalar`` everywhere; ``avx2`` or ``avx512`` on x86-64; ``neon`` on 64-bit ARM.

    Raises:
        BackendUnavailableError: where it was not compiled in or this machine lacks it.
    """
    if C is None:
        raise BackendUnavailableError(missing)
    supported = C.supported_isas()
    if name not in supported:
        raise BackendUnavailableError(
            f"the instruction set {name!r} is not available: compiled in are "
            f"{', '.join(C.compiled_isas())}, and this machine runs {', '.join(supported)}; "
            "choose one of these"
        )
    C.use_isa(name)
    global isa_refused
    isa_refused = None


def introduce_tensors(module: Any) -> None:
    """Tell a compiled module how to read whole lists of tensors, where torch offers it."""
    exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # torch >= 2.10
    if exchange is not None:
        types = (torch.Tensor, torch.nn.Parameter)
        module.use_tensor_exchange(exchange, types, torch.Tensor.is_neg, torch.Tensor.requires_grad)


def _initialise() -> None:
    for module in (C, C_cuda):
        if module is not None:
            introduce_tensors(module)
    if C is None:
        return
    # What torch's own calls are bound to. Other packages, such as scikit-learn, bring runtimes too,
    # and two pools of threads would fight over the cores.
    C.use_openmp(torch._C.__file__)
    asked = os.environ.get(_VARIABLE)
    if asked:
        try:
            use_isa(asked)
        except BackendUnavailableError as error:
            # Raised by the import, it could be caught by nobody.
            global isa_refused
            isa_refused = f"{_VARIABLE}={asked}: {error}"


_initialise()
