"""AdaGrad-Norm's update of many tensors: one accumulator in all, or one for every row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.rule import AdagradRule, from_schema, in_schema
from adadagrad_kernels.checks import (
    check_updated,
    require_disjoint,
    require_distinct,
    require_no_graph,
    require_plain,
)
from adadagrad_kernels.ops._library import register
from adadagrad_kernels.ops._lists import select_for, settle_quickly


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Tensor | Sequence[Tensor],
    *,
    lr: float | Tensor,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float | Tensor = 1.0,
    found_inf: Tensor | None = None,
) -> Tensor:
    r"""AdaGrad with a norm as its accumulator (Ward, Wu, Bottou 2019, algorithm 1).

    With :math:`g` the gradient divided by ``grad_scale`` and :math:`d = \pm g + \lambda w` over
    all tensors together,

    .. math::
        v \leftarrow v + \lVert d \rVert^2, \qquad
        w \leftarrow w - \alpha\, d / (\sqrt v + \epsilon)

    where v is a single number, or, given a list, one number for each row of each tensor (its
    first dimension), as in the code of Lau, Liu and Kolar (2024).

    Args:
        params: the tensors w, updated in place; any dense layout, contiguous where row-wise.
        grads: their gradients, of the same shapes, dtypes and layouts.
        accumulators: v, updated in place: one float64 tensor with one element, or a list of
            contiguous float64 tensors ``[rows]``, where rows is ``param.shape[0]``, or one for a
            0-dimensional parameter.
        lr: the learning rate :math:`\alpha`.
        eps: added to the root.
        weight_decay: :math:`\lambda`.
        maximize: ascend instead of descend.
        grad_scale: the factor the gradients carry, as from ``torch.amp.GradScaler``.
        found_inf: one number on the device of the tensors; where it is not 0 nothing is written,
            as for a step that ``torch.amp.GradScaler`` skips.

    ``lr`` and ``grad_scale`` may be one number each on the device of the tensors. The kernels of a
    GPU read these when they run, so that the host does not wait, and a captured graph is replayed
    with the values of that time.

    Returns:
        The squared norm of the whole gradient, :math:`\sum \lVert g \rVert^2` before weight decay
        (0-dimensional, float64).

    Raises:
        ValueError: where lists, devices, dtypes, shapes or layouts differ, a tensor has holes or
            overlaps, or requires grad outside no_grad; where a number is negative or not finite,
            or ``grad_scale`` is 0. Nothing has been written then.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import adagrad_norm_step_
        >>> param, accumulator = torch.zeros(2), torch.zeros((), dtype=torch.float64)
        >>> adagrad_norm_step_([param], [torch.tensor([3.0, 4.0])], accumulator, lr=1.0)
        tensor(25., dtype=torch.float64)
        >>> param
        tensor([-0.6000, -0.8000])
    """
    row_wise = not isinstance(accumulators, Tensor)
    rows = [accumulators] if isinstance(accumulators, Tensor) else list(accumulators)
    scalars = (lr, eps, weight_decay, maximize, grad_scale, found_inf)
    lists = (list(params), list(grads), rows)
    if torch.compiler.is_compiling():
        result: Tensor = _operator(*lists, row_wise, *in_schema(*scalars))
        return result
    return take_step(*lists, row_wise, AdagradRule(*scalars))


def take_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor:
    """The same by a rule, for who has one; not to be traced by torch.compile.

    ``accumulators`` is a list of one for each param where ``row_wise``, and else of one in all.
    """
    rule.check_numbers()
    rule = rule.beside(params or accumulators)
    lists = (params, grads, accumulators)
    settled = settle_quickly("adagrad_norm_step_", lists, row_wise, rule)
    if settled is not None:
        return settled
    _check(params, grads, accumulators, row_wise)
    if not params:
        return sq_norm("cpu", 0.0)
    backend = select_for("adagrad_norm_step_", params)
    norm: Tensor = backend.adagrad_norm_step_(params, grads, accumulators, row_wise, rule)
    return norm


def _check(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
) -> None:
    if len(params) != len(grads):
        raise ValueError(
            f"params and grads must have equal lengths, got {len(params)} and {len(grads)}"
        )
    if row_wise and len(accumulators) != len(params):
        raise ValueError(
            f"got {len(accumulators)} accumulators for {len(params)} params; accepted are one "
            "tensor in all, or a list with one for each param"
        )
    for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
        check_updated(("param", "grad"), (param, grad))
        require_disjoint("param", param, "grad", grad)
        if param.device != params[0].device:
            raise ValueError(
                f"params are on {params[0].device} and {param.device}; call once per device"
            )
        if row_wise:
            if not param.is_contiguous():
                raise ValueError(
                    f"param has strides {param.stride()}; row-wise accumulators need "
                    "contiguous parameters"
                )
            rows = param.shape[0] if param.dim() else 1
            _check_accumulator(accumulators[index], rows, param)
        elif index == 0:
            _check_accumulator(accumulators[0], 1, param)
        accumulator = accumulators[index if row_wise else 0]
        require_disjoint("accumulator", accumulator, "param", param)
        require_disjoint("accumulator", accumulator, "grad", grad)
    require_distinct("params", params)
    require_distinct("accumulators", accumulators)
    if not row_wise and not params:
        _check_accumulator(accumulators[0], 1, accumulators[0])


def _check_accumulator(accumulator: Tensor, rows: int, param: Tensor) -> None:
    require_plain("accumulator", accumulator)
    require_no_graph("accumulator", accumulator)
    if (
        accumulator.dtype != torch.float64
        or accumulator.numel() != rows
        or accumulator.device != param.device
        or not accumulator.is_contiguous()
    ):
        raise ValueError(
            f"the accumulator has shape {tuple(accumulator.shape)}, dtype {accumulator.dtype}, "
            f"device {accumulator.device}; accepted is a contiguous float64 tensor with {rows} "
            f"element(s) on {param.device}"
        )


def _registered(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    *scalars: Any,
) -> Tensor:
    return take_step(params, grads, accumulators, row_wise, from_schema(*scalars))


def _fake(params: Sequence[Tensor], *_: Any) -> Tensor:
    return sq_norm(params[0].device if params else None)


_operator = register(
    "adagrad_norm_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] accumulators, "
    "bool row_wise, float lr, float eps, float weight_decay, bool maximize, float grad_scale, "
    "Tensor? lr_tensor=None, Tensor? grad_scale_tensor=None, Tensor? found_inf=None) -> Tensor",
    _registered,
    _fake,
)
