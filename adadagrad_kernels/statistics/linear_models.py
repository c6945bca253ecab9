"""Per-sample gradients of linear models on sparse data, as sparse as the data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels.checks import (
    ACCUMULATION_DTYPES,
    check_csr,
    check_csr_indices,
    require_dtype,
    require_plain,
)
from adadagrad_kernels.ops import CsrRows

#: Losses of a margin z and a target y.
LOSSES = ("logistic", "squares", "hinge")


class LinearGradients(NamedTuple):
    """Losses and per-sample gradients of a linear model on a batch.

    Attributes:
        gradients: the gradient of each sample's own loss by the weight, with the data's entries.
        losses: ``[samples]``, in the type of sums.
        margins: z = <x_i, w>, ``[samples]``, in the type of sums.
    """

    gradients: CsrRows
    losses: Tensor
    margins: Tensor


def linear_gradients(
    weight: Tensor, rows: CsrRows, targets: Tensor, loss: str = "logistic"
) -> LinearGradients:
    r"""Losses of a linear model on sparse samples, and each sample's gradient.

    With :math:`z_i = \langle x_i, w \rangle` the gradient is
    :math:`\ell'(z_i, y_i)\, x_i`: a row of the data, scaled, where

    .. math::
        \text{logistic: } \ell = \ln(1 + e^{-y z}), \qquad
        \text{squares: } \ell = \tfrac12 (z - y)^2, \qquad
        \text{hinge: } \ell = \max(0, 1 - y z).

    The data's entries stay stored where the slope is zero. An intercept is a column of ones.

    Args:
        weight: w, ``[features]``.
        rows: x, ``[samples, features]``, its values of the same dtype.
        targets: y, ``[samples]``; -1 and 1 for the logistic and the hinge loss.
        loss: ``logistic``, ``squares`` or ``hinge``.

    Raises:
        ValueError: for rows that are no CSR rows of such a weight, another number of targets, a
            loss that is none of these, or targets that do not fit it.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import CsrRows
        >>> from adadagrad_kernels.statistics import linear_gradients
        >>> rows = CsrRows(torch.tensor([0, 2, 3]), torch.tensor([0, 2, 1]), torch.ones(3))
        >>> result = linear_gradients(torch.zeros(3), rows, torch.tensor([1.0, -1.0]))
        >>> result.gradients.values, result.losses
        (tensor([-0.5000, -0.5000,  0.5000]), tensor([0.6931, 0.6931]))
    """
    crow, col, values = rows
    require_plain("weight", weight)
    require_plain("values", values)
    require_dtype("weight", weight)
    check_csr(crow, col, values)
    if weight.dim() != 1 or weight.dtype != values.dtype or weight.device != values.device:
        raise ValueError(
            f"weight is {tuple(weight.shape)} in {weight.dtype} on {weight.device}; accepted is "
            f"[features] in {values.dtype} on {values.device}, as the rows are"
        )
    check_csr_indices(crow, col, values, len(weight))
    samples = len(crow) - 1
    if targets.shape != (samples,):
        raise ValueError(f"targets has shape {tuple(targets.shape)}; accepted is ({samples},)")
    dtype = ACCUMULATION_DTYPES[weight.dtype]
    targets = _fitting(targets, loss).to(dtype)
    with torch.no_grad():
        lengths = crow.diff()
        of_entry = torch.arange(samples, device=col.device).repeat_interleave(lengths)
        terms = values.to(dtype) * weight.to(dtype)[col.long()]
        margins = terms.new_zeros(samples).index_add_(0, of_entry, terms)
        losses, slopes = _loss(loss, margins, targets)
        scaled = (values.to(dtype) * slopes[of_entry]).to(values.dtype)
    return LinearGradients(CsrRows(crow, col, scaled), losses, margins)


def _fitting(targets: Tensor, loss: str) -> Tensor:
    if loss not in LOSSES:
        raise ValueError(f"loss is {loss!r}; accepted are {', '.join(LOSSES)}")
    if loss == "squares":
        right, accepted = targets.isfinite(), "finite numbers"
    else:
        right, accepted = targets.abs() == 1, "-1 and 1"
    if not right.all():
        wrong = targets[~right][0].item()
        raise ValueError(f"targets has {wrong:g}; accepted for the {loss} loss are {accepted}")
    return targets


def _loss(loss: str, margins: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The losses and their slopes by the margin."""
    if loss == "squares":
        return (margins - targets).square() / 2, margins - targets
    agreement = targets * margins
    if loss == "logistic":
        return -F.logsigmoid(agreement), -targets * torch.sigmoid(-agreement)
    inside = agreement < 1
    return (1 - agreement).clamp(min=0), torch.where(inside, -targets, torch.zeros_like(targets))
