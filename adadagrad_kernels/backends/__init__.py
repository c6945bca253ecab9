"""Which implementation runs an op: by name, by environment, or the best one that can.

A backend asked for by name runs or raises; only ``auto`` falls back, by the priorities of the
records in ``registry.py``.
"""

from __future__ import annotations

import warnings
from types import ModuleType

import torch

from adadagrad_kernels import _native
from adadagrad_kernels.backends.choice import chosen, from_environment, use_backend
from adadagrad_kernels.backends.registry import BACKENDS, Backend
from adadagrad_kernels.errors import BackendUnavailableError

__all__ = [
    "BACKENDS",
    "Backend",
    "check_environment",
    "chosen",
    "describe",
    "select",
    "use_backend",
]

_best: dict[tuple[torch.device, torch.dtype, str], ModuleType] = {}
_told_of_fallback = False


def select(
    device: torch.device | str, dtype: torch.dtype = torch.float32, op: str = "batch_moments"
) -> ModuleType:
    """The module that runs the op on tensors on ``device`` with elements of type ``dtype``.

    Raises:
        BackendUnavailableError: where the backend asked for by name cannot run, with the reason.
        ValueError: where the environment names no backend.
    """
    if isinstance(device, str):
        device = torch.device(device)
    name = chosen()
    if name == "auto":
        best = _best.get((device, dtype, op))
        if best is None:
            best = _best[device, dtype, op] = _best_of_all(device, dtype, op)
        return best
    backend = BACKENDS[name]
    reason = backend.obstacle(device, dtype, op)
    if reason is not None:
        raise BackendUnavailableError(
            f"the backend {name!r} cannot run: {reason}; accepted are auto, {', '.join(BACKENDS)}"
        )
    return backend.module


def _best_of_all(device: torch.device, dtype: torch.dtype, op: str) -> ModuleType:
    # What was asked for by name is no reason to fall back.
    if _native.isa_refused is not None:
        raise BackendUnavailableError(_native.isa_refused)
    fitting = [backend for backend in BACKENDS.values() if backend.reads(device)]
    for backend in sorted(fitting, key=lambda backend: backend.priority, reverse=True):
        reason = backend.obstacle(device, dtype, op)
        if reason is None:
            break
        if backend.name == "cpu":
            _tell_of_fallback(reason)
    return backend.module


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
        "backends": {name: backend.unavailable() for name, backend in BACKENDS.items()},
        "isa": _native.instruction_sets(),
        "threads": torch.get_num_threads(),
        "openmp": _native.openmp_runtimes(),
    }
