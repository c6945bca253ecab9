"""Which implementation runs an op: by name, by environment, or the best one that can.

Every backend is a module with one function per op; ``unavailable()``, which says in a sentence why
it cannot run here, or None; and, where it does not take all tensors, ``refuses(device, dtype)``,
which says the same of those. A backend asked for by name runs or raises; only ``auto`` falls back,
in the order of ``AUTO_ORDER``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

import torch

from adadagrad_kernels import _native
from adadagrad_kernels.backends import cpu, cuda, reference, triton
from adadagrad_kernels.errors import BackendUnavailableError

__all__ = ["AUTO_ORDER", "BACKENDS", "describe", "select", "use_backend"]

BACKENDS: dict[str, ModuleType] = {
    "reference": reference,
    "cpu": cpu,
    "cuda": cuda,
    "triton": triton,
}

#: What ``auto`` tries on each type of device, in order; elsewhere the reference.
AUTO_ORDER = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}

#: The type of device whose tensors a backend reads; ``None`` stands for all of them.
_DEVICES = {"reference": None, "cpu": "cpu", "cuda": "cuda", "triton": "cuda"}

_VARIABLE = "ADADAGRAD_KERNELS_BACKEND"


def _accepted(name: str, source: str) -> str:
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"{source} names the backend {name!r}; accepted are auto, {_names()}")
    return name


def _names() -> str:
    return ", ".join(BACKENDS)


_chosen = _accepted(os.environ.get(_VARIABLE, "auto"), _VARIABLE)
_best: dict[tuple[torch.device, torch.dtype, str], ModuleType] = {}


def select(
    device: torch.device | str, dtype: torch.dtype = torch.float32, op: str = "batch_moments"
) -> ModuleType:
    """The backend for the op on tensors on ``device`` with elements of type ``dtype``.

    Raises:
        BackendUnavailableError: where the backend asked for by name cannot run, with the reason.
    """
    device = torch.device(device)
    if _chosen == "auto":
        best = _best.get((device, dtype, op))
        if best is None:
            order = AUTO_ORDER.get(device.type, ("reference",))
            best = next(BACKENDS[n] for n in order if _obstacle(n, device, dtype, op) is None)
            _best[device, dtype, op] = best
        return best
    reason = _obstacle(_chosen, device, dtype, op)
    if reason is not None:
        raise BackendUnavailableError(
            f"the backend {_chosen!r} cannot run: {reason}; accepted are auto, {_names()}"
        )
    return BACKENDS[_chosen]


def _obstacle(name: str, device: torch.device, dtype: torch.dtype, op: str) -> str | None:
    """Why a backend cannot run the op on such tensors, or None."""
    backend = BACKENDS[name]
    if not hasattr(backend, op):
        return f"it has no kernel for {op}"
    reason: str | None = backend.unavailable()
    if reason is not None:
        return reason
    if _DEVICES[name] not in (None, device.type):
        return f"it reads {_DEVICES[name]} tensors, and these are on {device.type}"
    refuses = getattr(backend, "refuses", None)
    refusal: str | None = refuses and refuses(device, dtype)
    return refusal


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the ops inside the context on the backend called ``name``.

    Raises:
        ValueError: for a name that is no backend.

    Example:
        >>> import torch
        >>> from adadagrad_kernels import ops, use_backend
        >>> with use_backend("reference"):
        ...     ops.batch_moments(torch.eye(2)).sq_norms
        tensor([1., 1.], dtype=torch.float64)
    """
    global _chosen
    previous, _chosen = _chosen, _accepted(name, "use_backend")
    try:
        yield
    finally:
        _chosen = previous


def describe() -> dict[str, object]:
    """What can run here: backends with the reason for a missing one, instruction sets, threads."""
    return {
        "backends": {name: module.unavailable() for name, module in BACKENDS.items()},
        "isa": _native.instruction_sets(),
        "threads": torch.get_num_threads(),
        "openmp": _native.openmp_runtimes(),
    }
