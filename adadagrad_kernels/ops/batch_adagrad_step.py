"""Statistics of a batch and the AdaGrad step along its mean, in the same pass."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import (
    check_per_sample_grads,
    check_updated,
    require_disjoint,
    require_same,
)
from adadagrad_kernels.ops._library import register
from adadagrad_kernels.ops.batch_moments import BatchMoments, fake_moments, pack
from adadagrad_kernels.settings import check_step_numbers

_Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def batch_adagrad_step_(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    *,
    lr: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
    maximize: bool = False,
    variance: bool = True,
    inner_products: bool = True,
) -> BatchMoments:
    r"""The moments of per-sample gradients, and AdaGrad's update along their mean, in one pass.

    With the mean :math:`\bar g` of :func:`batch_moments` and :math:`d = \pm\bar g + \lambda w`,

    .. math:: v \leftarrow v + d^2, \qquad w \leftarrow w - \alpha\, d / (\sqrt v + \epsilon),

    which is AdaAdaGrad's step (Lau, Liu, Kolar 2024, algorithm 1) with torch's placement of
    :math:`\epsilon`. The statistics are those of ``batch_moments``: of the gradients as given,
    before weight decay.

    Args:
        param: w, any dense shape with as many elements as G has features; updated in place.
        state_sum: v, shaped like ``param``; updated in place.
        per_sample_grads: G ``[samples, features]``, of the same dtype.
        lr: the learning rate :math:`\alpha`.
        eps: added to the root.
        weight_decay: :math:`\lambda`.
        maximize: ascend instead of descend.
        variance: whether to measure the variance.
        inner_products: whether to measure the inner products.

    Raises:
        ValueError: as :func:`batch_moments`; and where devices, dtypes or sizes differ, where
            ``param`` or ``state_sum`` has holes or overlaps, or requires grad outside no_grad, or
            a number is negative or not finite. Nothing has been written then.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import batch_adagrad_step_
        >>> param, state_sum = torch.zeros(2), torch.zeros(2)
        >>> _ = batch_adagrad_step_(param, state_sum, torch.tensor([[1.0, 4.0], [3.0, 0.0]]), lr=1)
        >>> param, state_sum
        (tensor([-1., -1.]), tensor([4., 4.]))
    """
    arguments = (
        param,
        state_sum,
        per_sample_grads,
        float(lr),
        eps,
        weight_decay,
        maximize,
        variance,
        inner_products,
    )
    outputs: _Outputs
    outputs = _operator(*arguments) if torch.compiler.is_compiling() else _run(*arguments)
    return pack(outputs, variance, inner_products)


def _run(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    variance: bool,
    inner_products: bool,
) -> _Outputs:
    check_step_numbers(lr=lr, eps=eps, weight_decay=weight_decay)
    check_per_sample_grads(per_sample_grads, variance=variance)
    check_updated(("param", "state_sum"), (param, state_sum))
    row = per_sample_grads[0]
    if row.numel() != param.numel():
        raise ValueError(
            f"per_sample_grads has {row.numel()} features, but param of shape "
            f"{tuple(param.shape)} has {param.numel()} elements; they must agree"
        )
    if not param.is_contiguous():
        raise ValueError(
            f"param has strides {param.stride()}; the features of per_sample_grads are in row-"
            "major order, so param and state_sum must be contiguous"
        )
    require_same("per_sample_grads", row, "param", param.detach().view(-1))
    require_disjoint("param", param, "state_sum", state_sum)
    require_disjoint("param", param, "per_sample_grads", per_sample_grads)
    require_disjoint("state_sum", state_sum, "per_sample_grads", per_sample_grads)
    backend = backends.select(param.device, param.dtype)
    outputs: _Outputs = backend.batch_adagrad_step_(
        param,
        state_sum,
        per_sample_grads,
        lr,
        eps,
        weight_decay,
        maximize,
        variance,
        inner_products,
    )
    return outputs


def _fake(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    variance: bool,
    inner_products: bool,
) -> _Outputs:
    return fake_moments(per_sample_grads, variance, inner_products)


_operator = register(
    "batch_adagrad_step_(Tensor(a!) param, Tensor(b!) state_sum, Tensor per_sample_grads, "
    "float lr, float eps, float weight_decay, bool maximize, bool variance, bool inner_products)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _run,
    _fake,
)
