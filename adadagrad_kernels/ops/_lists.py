"""What the ops on lists of tensors share: the choice of a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import PLAIN_TYPES
from adadagrad_kernels.errors import BackendUnavailableError


def select_for(op: str, tensors: Sequence[Tensor]) -> ModuleType:
    """The backend that runs the op on all of them, of which there is at least one."""
    device = tensors[0].device
    if device.type == "cpu":
        return backends.select(device, tensors[0].dtype, op)
    dtypes = {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)}
    wide = torch.float64 in dtypes
    return backends.select(device, torch.float64 if wide else tensors[0].dtype, op)


def settle_quickly(
    op: str, lists: tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]], *rest: Any
) -> Tensor | None:
    """The op on unchecked lists; None, and nothing done, where they need the checks.

    The checks cost more than the update of a small tensor. Where all is plainly right, a backend
    may find that out by reading the lists as a whole; the checks say what is wrong with others.
    """
    params = lists[0]
    if not params or type(params[0]) not in PLAIN_TYPES:
        return None
    try:
        backend = select_for(op, params)
    except BackendUnavailableError:
        return None  # which is to be said after what is wrong with the tensors
    quick: Callable[..., Tensor | None] | None = getattr(backend, f"quick_{op}", None)
    return None if quick is None else quick(*lists, *rest)
