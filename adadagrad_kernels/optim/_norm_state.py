"""Makes and saves AdaGrad-Norm's accumulators, and converts them from and to AdaGrad's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.optim._buckets import Accumulator, Group
from adadagrad_kernels.optim._counters import State


def first_sums(
    missing: list[tuple[Tensor, Group]], groups: list[Group], value: float
) -> list[Tensor]:
    """The accumulators of parameters that have none: ``value`` per row, or for the single v."""
    for param, group in missing:
        if hasattr(param, "to_local") and group["row_wise"]:
            raise ValueError(
                f"AdagradNorm(row_wise=True) got a {type(param).__name__} of shape "
                f"{tuple(param.shape)}: accumulators of rows have no shards. Ways out: "
                "row_wise=False, one accumulator in all; plain parameters, as in DDP"
            )
    sharing = [param for param, group in missing if not group["row_wise"]]
    everyone = [p for group in groups if not group["row_wise"] for p in group["params"]]
    # The accumulator starts with the first parameters; later ones join what has grown since.
    start = value if len(sharing) == len(everyone) else 0.0
    elements = max(sum(param.numel() for param in sharing), 1)
    return [
        filled((_rows(param),), value, param)
        if group["row_wise"]
        else filled((), start * param.numel() / elements, param)
        for param, group in missing
    ]


def filled(shape: tuple[int, ...], value: float, like: Tensor) -> Tensor:
    """A float64 tensor on the device of another."""
    return torch.full(shape, value, dtype=torch.float64, device=like.device)


class Guarded:
    """A tensor that torch's load_state_dict, knowing only tensors, leaves as it is."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def guard_sums(_: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A pre-hook of load_state_dict that keeps the sums from being cast.

    Raises:
        ValueError: for torch's ``lr_decay`` other than 0.
    """
    for group in state_dict["param_groups"]:
        if group.get("lr_decay", 0) != 0:
            raise ValueError(
                f"the state dict has lr_decay={group['lr_decay']}; AdagradNorm accepts 0: use a "
                "learning-rate scheduler"
            )
    return guarded(state_dict)


def guarded(state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict whose sums torch does not cast to the dtype of the parameter."""
    state = {
        key: {**saved, "sum": Guarded(saved["sum"])} if "sum" in saved else saved
        for key, saved in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def summed(param: Tensor, total: Tensor | Guarded, kind: Accumulator) -> Tensor:
    """An accumulator as it was saved, or AdaGrad's coordinates added up to one."""
    exact = total.tensor if isinstance(total, Guarded) else total
    shape = (_rows(param),) if kind is Accumulator.ROW else ()
    if exact.shape != shape and exact.shape != param.shape:
        raise ValueError(
            f"the state's sum has shape {tuple(exact.shape)} for a parameter of shape "
            f"{tuple(param.shape)}; accepted are {shape} and the parameter's own"
        )
    if exact.is_complex():
        exact = torch.view_as_real(exact)
    exact = exact.to(param.device, torch.float64)
    if exact.shape == shape:
        return exact
    if kind is Accumulator.SHARE:
        return exact.sum()
    rows = _rows(param)
    return exact.reshape(rows, exact.numel() // max(rows, 1)).sum(1)


def per_coordinate_sums(param: Tensor, saved: State) -> Tensor:
    """AdaGrad's accumulator whose coordinates are equal and add up to ours."""
    total: Tensor = saved["sum"]
    parts = param.numel() * (2 if param.is_complex() else 1)
    each = total * total.numel() / max(parts, 1)
    if param.is_complex():
        each = torch.complex(each, each)
    shape = (-1, *[1] * (param.dim() - 1)) if total.dim() and param.dim() else ()
    return torch.empty_like(param, requires_grad=False).copy_(each.view(shape))


def _rows(param: Tensor) -> int:
    return param.shape[0] if param.dim() else 1
