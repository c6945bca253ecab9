"""AdaGrad's update of many tensors in one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import check_updated, require_disjoint, require_distinct
from adadagrad_kernels.ops._library import register


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    *,
    lr: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
    grad_scale: float = 1.0,
) -> Tensor:
    r"""AdaGrad's update (Duchi, Hazan, Singer 2011) of a list of tensors, as torch.optim has it.

    With :math:`g` the gradient divided by ``grad_scale`` and :math:`d = \pm g + \lambda w`,

    .. math:: v \leftarrow v + d^2, \qquad w \leftarrow w - \alpha\, d / (\sqrt v + \epsilon).

    Args:
        params: the tensors w, updated in place; any dense layout.
        grads: their gradients, of the same shapes, dtypes and layouts.
        state_sums: their accumulators v, likewise; updated in place.
        lr: the learning rate :math:`\alpha`.
        eps: added to the root.
        weight_decay: :math:`\lambda`.
        maximize: ascend instead of descend.
        grad_scale: the factor the gradients carry, as from ``torch.amp.GradScaler``.

    Returns:
        The squared norm of the whole gradient, :math:`\sum \lVert g \rVert^2` before weight decay
        (0-dimensional, float64).

    Raises:
        ValueError: where lists, devices, dtypes, shapes or layouts differ, a tensor has holes or
            overlaps, or requires grad outside no_grad. Nothing has been written then.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import adagrad_step_
        >>> param, state_sum = torch.zeros(2), torch.zeros(2)
        >>> adagrad_step_([param], [torch.tensor([3.0, 4.0])], [state_sum], lr=0.1)
        tensor(25., dtype=torch.float64)
        >>> param
        tensor([-0.1000, -0.1000])
    """
    if torch.compiler.is_compiling():
        lists = (list(params), list(grads), list(state_sums))
        result: Tensor = _operator(*lists, lr, eps, weight_decay, maximize, grad_scale)
        return result
    return _run(params, grads, state_sums, lr, eps, weight_decay, maximize, grad_scale)


def _run(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float,
) -> Tensor:
    arguments = (params, grads, state_sums, lr, eps, weight_decay, maximize, grad_scale)
    # The checks below cost more than the update of a small tensor. Where all is plainly right a
    # backend may settle it on its own, and where it is not, the checks find out what is wrong.
    if params and isinstance(params[0], Tensor) and not torch.is_grad_enabled():
        quick = getattr(backends.select(params[0].device.type), "quick_adagrad_step_", None)
        settled: Tensor | None = quick and quick(*arguments)
        if settled is not None:
            return settled
    _check(params, grads, state_sums)
    backend = backends.select(params[0].device.type if params else "cpu")
    sq_norm: Tensor = backend.adagrad_step_(*arguments)
    return sq_norm


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


def _fake(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float,
) -> Tensor:
    device = params[0].device if params else None
    return torch.empty((), dtype=torch.float64, device=device)


_operator = register(
    "adagrad_step_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] state_sums, float lr, "
    "float eps, float weight_decay, bool maximize, float grad_scale) -> Tensor",
    _run,
    _fake,
)
