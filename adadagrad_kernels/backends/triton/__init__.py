"""Triton kernels, compiled at their first use for the device at hand.

Arguments have passed the ops' checks. Triton is imported by the first call that needs it, so that
the package works where Triton is missing. Learning rate and gradient scale may be numbers, or
0-dimensional float64 tensors on the device: the kernels read those themselves, so that nothing
waits for the device and a captured CUDA graph replays with new values. So it is with
``found_inf``, a 0-dimensional floating-point tensor: where it is not zero, nothing is written.

An op is a file of kernels/ with a function of the op's name, which also raises the version counters
of what it writes.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

from adadagrad_kernels.backends import folders
from adadagrad_kernels.backends.triton import _launch, kernels

_OPS = frozenset(folders.files(kernels.__path__))

#: Element types of the kernels; float64 is left to the other backends.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: What the compiler accepts, and bfloat16 needs.
OLDEST_CAPABILITY = (8, 0)

#: The first release whose loops can be told to leave constants inside (`disable_licm`); torch 2.9
#: came with it. Outside they take registers that the kernels do not have.
OLDEST_TRITON = (3, 5)


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; run `pip install triton`"
    unsupported = _unsupported()
    if unsupported is not None or _runs_elsewhere():
        return unsupported
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why tensors of this device and dtype are not taken, or None."""
    if dtype not in DTYPES:
        accepted = ", ".join(map(str, DTYPES))
        return f"it has no kernels for {dtype}; accepted are {accepted}"
    return None if _runs_elsewhere() else _too_old(device)


def _runs_elsewhere() -> bool:
    """Whether something in a GPU's place runs the kernels, on tensors of any device."""
    return _launch.executor() is not None or os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _unsupported() -> str | None:
    """Why the Triton that is installed cannot compile the kernels, or None."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    version = triton.__version__
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST_TRITON:
        needed = ".".join(map(str, OLDEST_TRITON))
        return (
            f"Triton {version} does not know `disable_licm` of loops, and the kernels need "
            f"{needed} or newer, which comes with torch 2.9"
        )
    return None


@functools.cache
def _too_old(device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        given, needed = (".".join(map(str, pair)) for pair in (capability, OLDEST_CAPABILITY))
        return f"{device} has compute capability {given}, and the kernels need {needed} or newer"
    return None


def __getattr__(name: str) -> Callable[..., Any]:
    """An op of this backend: the function of that name in the op's file of kernels/.

    Raises:
        AttributeError: where there is no such file.
    """
    op = name.removesuffix("_")
    if op not in _OPS:
        raise AttributeError(f"the backend triton has no {name}")

    def run(*arguments: Any) -> Any:
        module = importlib.import_module(f"{kernels.__name__}.{op}")
        with _launch.device_of(arguments):
            return getattr(module, name)(*arguments)

    globals()[name] = run
    return run
