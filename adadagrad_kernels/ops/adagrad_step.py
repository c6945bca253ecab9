"""AdaGrad's update of many tensors in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.rule import AdagradRule, from_schema, in_schema
from adadagrad_kernels.checks import check_updated, require_disjoint, require_distinct
from adadagrad_kernels.ops._library import register
from adadagrad_kernels.ops._lists import select_for, settle_quickly


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    *,
    lr: float | Tensor,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float | Tensor = 1.0,
    found_inf: Tensor | None = None,
) -> Tensor:
    r"""AdaGrad's update (Duchi, Hazan, Singer 2011) of a list of tensors, as torch.optim has it.

    With :math:`g` the gradient divided by ``grad_scale`` and :math:`d = \pm g + \lambda w`,

    .. math:: v \leftarrow v + d^2, \qquad w \leftarrow w - \alpha\, d / (\sqrt v + \epsilon).

    Args:
        params: the tensors w, updated in place; any dense layout.
        grads: their gradients, of the same shapes, dtypes and layouts.
        state_sums: their accumulators v, of the same shapes, dtypes and layouts; updated in place.
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
        >>> from adadagrad_kernels.ops import adagrad_step_
        >>> param, state_sum = torch.zeros(2), torch.zeros(2)
        >>> adagrad_step_([param], [torch.tensor([3.0, 4.0])], [state_sum], lr=0.1)
        tensor(25., dtype=torch.float64)
        >>> param
        tensor([-0.1000, -0.1000])
    """
    scalars = (lr, eps, weight_decay, maximize, grad_scale, found_inf)
    if torch.compiler.is_compiling():
        lists = (list(params), list(grads), list(state_sums))
        result: Tensor = _operator(*lists, *in_schema(*scalars))
        return result
    return take_step(params, grads, state_sums, AdagradRule(*scalars))


def take_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor:
    """The same by a rule, for who has one; not to be traced by torch.compile."""
    rule.check_numbers()
    rule = rule.beside(params)
    if len(params) == len(grads) == len(state_sums):
        settled = settle_quickly("adagrad_step_", (params, grads, state_sums), rule)
        if settled is not None:
            return settled
    _check(params, grads, state_sums)
    if not params:
        return sq_norm("cpu", 0.0)
    backend = select_for("adagrad_step_", params)
    norm: Tensor = backend.adagrad_step_(params, grads, state_sums, rule)
    return norm


def _check(params: Sequence[Tensor], grads: Sequence[Tensor], state_sums: Sequence[Tensor]) -> None:
    if not len(params) == len(grads) == len(state_sums):
        raise ValueError(
            f"params, grads and state_sums must have equal lengths, got {len(params)}, "
            f"{len(grads)} and {len(state_sums)}"
        )
    for param, grad, state_sum in zip(params, grads, state_sums, strict=True):
        check_updated(("param", "grad", "state_sum"), (param, grad, state_sum))
        require_disjoint("param", param, "state_sum", state_sum)
        require_disjoint("param", param, "grad", grad)
        require_disjoint("grad", grad, "state_sum", state_sum)
        if param.device != params[0].device:
            raise ValueError(
                f"params are on {params[0].device} and {param.device}; call once per device"
            )
    require_distinct("params", params)
    require_distinct("state_sums", state_sums)


def _registered(
    params: Sequence[Tensor], grads: Sequence[Tensor], state_sums: Sequence[Tensor], *scalars: Any
) -> Tensor:
    return take_step(params, grads, state_sums, from_schema(*scalars))


def _fake(params: Sequence[Tensor], *_: Any) -> Tensor:
    return sq_norm(params[0].device if params else None)


_operator = register(
    "adagrad_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] state_sums, float lr, "
    "float eps, float weight_decay, bool maximize, float grad_scale, "
    "Tensor? lr_tensor=None, Tensor? grad_scale_tensor=None, Tensor? found_inf=None) -> Tensor",
    _registered,
    _fake,
)
