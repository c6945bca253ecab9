"""Which implementation runs an op: by name, by environment, or the best one that can.

Every backend is a module with one function per op; ``unavailable()``, which says in a sentence why
it cannot run here, or None; and, where it does not take all tensors, ``refuses(device, dtype)``,
which says the same of those. A backend asked for by name runs or raises; only ``auto`` falls back,
in the order of ``AUTO_ORDER``.
"""

from __future__ import annotations

import warnings
from types import ModuleType

import torch

from adadagrad_kernels import _native
from adadagrad_kernels.backends import cpu, cuda, reference, triton
from adadagrad_kernels.backends.choice import chosen, from_environment, use_backend
from adadagrad_kernels.errors import BackendUnavailableError

__all__ = [
    "AUTO_ORDER",
    "BACKENDS",
    "check_environment",
    "chosen",
    "describe",
    "select",
    "use_backend",
]

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

_best: dict[tuple[torch.device, torch.dtype, str], ModuleType] = {}
_told_of_fallback = False


def select(
    device: torch.device | str, dtype: torch.dtype = torch.float32, op: str = "batch_moments"
) -> ModuleType:
    """The backend for the op on tensors on ``device`` with elements of type ``dtype``.

    Raises:
        BackendUnavailableError: where the backend asked for by name cannot run, with the reason.
        ValueError: where the environment names no backend.
    """
    device = torch.device(device)
    name = chosen()
    if name == "auto":
        best = _best.get((device, dtype, op))
        if best is None:
            best = _best[device, dtype, op] = _best_of_all(device, dtype, op)
        return best
    reason = _obstacle(name, device, dtype, op)
    if reason is not None:
        raise BackendUnavailableError(
            f"the backend {name!r} cannot run: {reason}; accepted are auto, {', '.join(BACKENDS)}"
        )
    return BACKENDS[name]


def _best_of_all(device: torch.device, dtype: torch.dtype, op: str) -> ModuleType:
    # What was asked for by name is no reason to fall back.
    if _native.isa_refused is not None:
        raise BackendUnavailableError(_native.isa_refused)
    order = AUTO_ORDER.get(device.type, ("reference",))
    found = next(name for name in order if _obstacle(name, device, dtype, op) is None)
    if found == "reference" and "cpu" in order:
        _tell_of_fallback(_obstacle("cpu", device, dtype, op))
    return BACKENDS[found]


def _tell_of_fallback(reason: str | None) -> None:
    """Once per process: results are right without the kernels, so nothing else would show it."""
    global _told_of_fallback
    if not _told_of_fallback:
        _told_of_fallback = True
        warnings.warn(
            "ops on CPU tensors run without their kernels, on the reference in plain torch, which "
            f"is slower: {reason}. To have the reference and no warning, ask for it: "
            'use_backend("reference")',
            RuntimeWarning,
            stacklevel=4,
        )


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


def check_environment() -> None:
    """Refuse what the environment asks for and cannot have, before anything runs.

    Raises:
        ValueError: where it names no backend.
        BackendUnavailableError: where it names an instruction set that is not there.
    """
    from_environment()
    if _native.isa_refused is not None:
        raise BackendUnavailableError(_native.isa_refused)


def describe() -> dict[str, object]:
    """What can run here: backends with the reason for a missing one, instruction sets, threads."""
    return {
        "backends": {name: module.unavailable() for name, module in BACKENDS.items()},
        "isa": _native.instruction_sets(),
        "threads": torch.get_num_threads(),
        "openmp": _native.openmp_runtimes(),
    }
