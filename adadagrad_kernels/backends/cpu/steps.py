"""AdaGrad's and AdaGrad-Norm's steps of many tensors on the CPU.

Each has a quick form for lists that nobody has checked: the compiled module reads such a list as a
whole, takes the step where all of it is plainly right, and leaves the rest to the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels import _native
from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import address

__all__ = [
    "adagrad_norm_step_",
    "adagrad_step_",
    "quick_adagrad_norm_step_",
    "quick_adagrad_step_",
]

# Type and index of the device, as DLPack counts them.
_DLPACK_CPU = (1, 0)

_C: Any = _native.C  # None only where `unavailable` says so, and then nothing here is called


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad step of every tensor; returns the squared norm of the whole gradient."""
    if _is_skipped(rule):
        return _sq_norm(grads, rule)
    update = _C.Update(
        [
            (address(param), address(grad), address(state_sum), param.numel(), 1, _code(param))
            for param, grad, state_sum in zip(params, grads, state_sums, strict=True)
        ]
    )
    return _run(_C.adagrad_step, update, [*params, *state_sums], rule)


def quick_adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor | None:
    """The same for unchecked lists, read as a whole; None where they need the checks."""
    if _is_skipped(rule):
        return None
    lists = [list(params), list(grads), list(state_sums)]
    update = _read(lists, _C.Accumulators.elements)
    if update is None:
        return None
    return _run(_C.adagrad_step, update, lists[0] + lists[2], rule)


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad-Norm step; one accumulator in all, or one for each row of each tensor."""
    if _is_skipped(rule):
        return _sq_norm(grads, rule)
    tensors = [
        (
            address(param),
            address(grad),
            address(accumulators[index]) if row_wise else 0,
            param.numel(),
            accumulators[index].numel() if row_wise else 1,
            _code(param),
        )
        for index, (param, grad) in enumerate(zip(params, grads, strict=True))
    ]
    update = _C.Update(tensors, 0 if row_wise else address(accumulators[0]))
    return _run(_C.adagrad_norm_step, update, [*params, *accumulators], rule)


def quick_adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor | None:
    """The same for unchecked lists, read as a whole; None where they need the checks."""
    if _is_skipped(rule):
        return None
    lists = [list(params), list(grads), list(accumulators)]
    update = _read(lists, _C.Accumulators.rows if row_wise else _C.Accumulators.one)
    if update is None:
        return None
    return _run(_C.adagrad_norm_step, update, lists[0] + lists[2], rule)


def _is_skipped(rule: AdagradRule) -> bool:
    return rule.found_inf is not None and float(rule.found_inf) != 0


def _read(lists: list[list[Tensor]], kind: Any) -> Any | None:
    """An update of params, grads and accumulators that are plainly right, or None."""
    return _C.read_lists(*_DLPACK_CPU, *lists, kind, torch.is_grad_enabled())


def _run(
    step: Callable[..., float], update: Any, written: list[Tensor], rule: AdagradRule
) -> Tensor:
    """Take a step; the caller holds the tensors of the update."""
    lr, eps, weight_decay, maximize, grad_scale, _ = rule
    threads = torch.get_num_threads()
    taken = step(update, float(lr), eps, weight_decay, maximize, float(grad_scale), threads)
    increment_version(written)
    return sq_norm("cpu", taken)


def _sq_norm(grads: Sequence[Tensor], rule: AdagradRule) -> Tensor:
    """The squared norm of the gradient of a step that is not taken."""
    scale = float(rule.grad_scale)
    return torch.stack(
        [sq_norm("cpu", 0.0)] + [(grad.double() / scale).square().sum() for grad in grads]
    ).sum()


def _code(tensor: Tensor) -> int:
    return TYPE_CODES[tensor.dtype]
