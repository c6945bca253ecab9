"""Statistics of a batch and the AdaGrad step along its mean, in the same pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends.outputs import BatchMoments
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.checks import (
    check_per_sample_grads,
    check_updated,
    require_disjoint,
    require_same,
)
from adadagrad_kernels.ops._library import register
from adadagrad_kernels.ops.batch_moments import from_schema


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
    scalars = (float(lr), eps, weight_decay, maximize)
    tensors, asked = (param, state_sum, per_sample_grads), (variance, inner_products)
    if torch.compiler.is_compiling():
        return from_schema(_operator(*tensors, *scalars, *asked), *asked)
    return _run(*tensors, AdagradRule(*scalars), *asked)


def _run(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    rule: AdagradRule,
    variance: bool,
    inner_products: bool,
) -> BatchMoments:
    rule.check_numbers()
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
    require_same("per_sample_grads", row, "param", param.view(-1))
    require_disjoint("param", param, "state_sum", state_sum)
    require_disjoint("param", param, "per_sample_grads", per_sample_grads)
    require_disjoint("state_sum", state_sum, "per_sample_grads", per_sample_grads)
    backend = backends.select(param.device, param.dtype, "batch_adagrad_step_")
    moments: BatchMoments = backend.batch_adagrad_step_(
        param, state_sum, per_sample_grads, rule, variance, inner_products
    )
    return moments


def _registered(
    param: Tensor, state_sum: Tensor, per_sample_grads: Tensor, *settings: Any
) -> BatchMoments:
    *scalars, variance, inner_products = settings
    rule = AdagradRule(*scalars)
    return _run(param, state_sum, per_sample_grads, rule, variance, inner_products)


def _fake(
    param: Tensor, state_sum: Tensor, per_sample_grads: Tensor, *settings: Any
) -> BatchMoments:
    *_, variance, inner_products = settings
    return BatchMoments.empty(per_sample_grads, variance, inner_products)


_operator = register(
    "batch_adagrad_step_(Tensor(a!) param, Tensor(b!) state_sum, Tensor per_sample_grads, "
    "float lr, float eps, float weight_decay, bool maximize, bool variance, bool inner_products)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    _registered,
    _fake,
)
