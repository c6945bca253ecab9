"""Numbers that a step takes from a device: passed on unread, because reading one means waiting."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor


def as_device_scalar(
    name: str, number: Tensor, device: torch.device, dtype: torch.dtype, capturable: bool
) -> Tensor:
    """A one-element tensor as kernels on ``device`` read it; nothing waits for it.

    Raises:
        ValueError: for more than one element, and with ``capturable`` for a tensor on another type
            of device.
    """
    if number.numel() != 1:
        raise ValueError(f"{name} has shape {tuple(number.shape)}; accepted is a single number")
    if number.device.type != device.type and capturable:
        raise ValueError(
            f"{name} is a tensor on {number.device}, but capturable=True has parameters on "
            f"{device}: a graph could not read it when it is replayed; make it with "
            f"device='{device.type}', or pass a number, which the graph then keeps"
        )
    # A number read on the host must have arrived there, so only copies to a device do not block.
    moved = number.detach().to(device, dtype, non_blocking=device.type != "cpu")
    return moved.reshape(())


def kept_where_skipped(before: Tensor | None, after: Tensor, found_inf: Tensor) -> Tensor:
    """``after``, or ``before`` (None: NaN) where the step is skipped; decided on the device."""
    skipped = found_inf.to(after.device, non_blocking=not after.is_cpu) != 0
    old = torch.full_like(after, torch.nan) if before is None else before.to(after)
    return torch.where(skipped, old, after)


def capturing() -> bool:
    """Whether work on the current stream is recorded in a CUDA graph."""
    cuda: Any = torch.cuda
    return bool(cuda.is_initialized() and cuda.is_current_stream_capturing())


def require_capturable(
    optimizer: str, groups: Collection[tuple[dict[str, Any], torch.device]]
) -> None:
    """Refuse to capture a step that would go wrong when it is replayed.

    Raises:
        RuntimeError: for groups without ``capturable``, and for tensors that no graph can hold.
    """
    for group, device in groups:
        if not group["capturable"]:
            raise RuntimeError(
                f"Attempting CUDA graph capture of step() for an instance of {optimizer} but "
                "param_groups' capturable is False; pass capturable=True, or set it in the groups"
            )
        if device.type == "cpu":
            raise RuntimeError(
                f"Attempting CUDA graph capture of step() for an instance of {optimizer} with "
                "parameters on the CPU, which a replay would leave as they are; accepted are "
                "parameters on CUDA devices"
            )
