"""What the ops on lists of tensors share: the choice of a backend, and scalars on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import PLAIN_TYPES, device_scalar
from adadagrad_kernels.errors import BackendUnavailableError


def select_for(tensors: Sequence[Tensor]) -> ModuleType:
    """The backend for all of them, of which there is at least one."""
    device = tensors[0].device
    if device.type == "cpu":
        return backends.select(device, tensors[0].dtype)
    dtypes = {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)}
    wide = torch.float64 in dtypes
    return backends.select(device, torch.float64 if wide else tensors[0].dtype)


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
        backend = select_for(params)
    except BackendUnavailableError:
        return None  # which is to be said after what is wrong with the tensors
    quick: Callable[..., Tensor | None] | None = getattr(backend, f"quick_{op}", None)
    return None if quick is None else quick(*lists, *rest)


def split(scalar: float | Tensor) -> tuple[float, Tensor | None]:
    """A number for the host, or one that lies on a device; schemas keep the two apart."""
    return (0.0, scalar) if isinstance(scalar, Tensor) else (scalar, None)


def joined(
    name: str, value: float, tensor: Tensor | None, tensors: Sequence[Tensor]
) -> float | Tensor:
    """What `split` took apart, checked; float64 where it is a tensor."""
    if tensor is None or not tensors or not isinstance(tensors[0], Tensor):
        return value
    return device_scalar(name, tensor, tensors[0].device, torch.float64)


def checked_flag(found_inf: Tensor | None, tensors: Sequence[Tensor]) -> Tensor | None:
    """The flag of a step that is to be skipped; float32."""
    if found_inf is None or not tensors or not isinstance(tensors[0], Tensor):
        return None
    return device_scalar("found_inf", found_inf, tensors[0].device, torch.float32)
