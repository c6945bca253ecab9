"""What the ops on lists of tensors share: the choice of a backend, and scalars on the device."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import device_scalar


def select_for(tensors: Sequence[Tensor]) -> ModuleType:
    """The backend for all of them, of which there is at least one."""
    device = tensors[0].device
    if device.type == "cpu":
        return backends.select(device, tensors[0].dtype)
    dtypes = {tensor.dtype for tensor in tensors if isinstance(tensor, Tensor)}
    wide = torch.float64 in dtypes
    return backends.select(device, torch.float64 if wide else tensors[0].dtype)


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
