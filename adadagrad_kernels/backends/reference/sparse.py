"""The definition of the step along sparse gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels.checks import ACCUMULATION_DTYPES, check_csr_indices

__all__ = [
    "sparse_mean_step_",
]


def sparse_mean_step_(
    param: Tensor,
    crow_indices: Tensor | None,
    col_indices: Tensor | None,
    values: Tensor,
    lr: float,
    mode: str,
    ridge: float,
    probabilities: Tensor | None,
    offset: Tensor | None,
    state_sum: Tensor | None,
    eps: float,
) -> Tensor:
    """A step of ``param`` along the aggregate; returns the squared norm of its direction."""
    dtype = ACCUMULATION_DTYPES[values.dtype]
    values = values.detach().to(dtype)
    if crow_indices is None or col_indices is None:
        samples = len(values)
        counts = values.ne(0).sum(0)
        columns = counts.nonzero()[:, 0]
        sums, counts = values.sum(0)[columns], counts[columns].to(dtype)
    else:
        check_csr_indices(crow_indices, col_indices, values, param.numel())
        samples = len(crow_indices) - 1
        columns, sums, counts = _by_column(crow_indices.long(), col_indices.long(), values)
    weight = param.detach().view(-1)
    value = weight[columns].to(dtype)
    if offset is not None:
        sums = sums + counts * offset[columns]
    if probabilities is not None:
        sums = sums + counts * (ridge / probabilities[columns] * value)
    divisors: dict[str, Tensor | int] = {"adabatch": counts, "mean": samples, "sum": 1}
    direction = sums / divisors[mode]
    step = lr * direction
    if state_sum is not None:
        accumulator = state_sum.detach().view(-1)
        total = accumulator[columns].to(dtype) + direction.square()
        accumulator[columns] = total.to(param.dtype)
        step = step / (total.sqrt() + eps)
    weight[columns] = (value - step).to(param.dtype)
    return direction.double().square().sum()


def _by_column(
    crow_indices: Tensor, col_indices: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Touched columns, the sum of each, and how many samples touch it."""
    samples = torch.arange(len(crow_indices) - 1, device=values.device)
    rows = samples.repeat_interleave(crow_indices.diff())
    column, order = col_indices.sort(stable=True)
    row = rows[order]
    columns, lengths = torch.unique_consecutive(column, return_counts=True)
    if not len(columns):
        return columns, values, values
    again = (column[1:] == column[:-1]) & (row[1:] == row[:-1])
    counted = torch.ones_like(values)
    counted[1:] -= again.to(values.dtype)
    # In float64: a segment is summed in one chain.
    sums, counts = (
        torch.segment_reduce(each.double(), "sum", lengths=lengths, unsafe=True).to(values.dtype)
        for each in (values[order], counted)
    )
    return columns, sums, counts
