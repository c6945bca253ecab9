"""`sparse_mean_step_` beside torch's own ways to the same step.

A batch's time must follow its entries, not the features: the same batch is timed on parameters of
growing size. ``index_add_`` and ``bincount`` make sums and counts as long as the parameter; with
``unique`` torch stays with the columns that occur.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adadagrad_kernels.ops import CsrRows, sparse_mean_step_

# Samples, entries of each.
BATCHES = [(1, 80), (64, 80), (4096, 80)]
FEATURES = [62_061, 1_355_191, 16_777_216]
LR = 0.1

each_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)
each_size = pytest.mark.parametrize("features", FEATURES)


def _case(batch: tuple[int, int], features: int, small: bool) -> tuple[Tensor, CsrRows]:
    """Columns of which the first are frequent, once in a sample at most."""
    samples, entries = (4, 5) if small else batch
    features = 300 if small else features
    size = samples * entries
    columns = (torch.rand(samples, entries) ** 3 * (features // entries)).long() * entries
    columns += torch.arange(entries)
    starts = torch.arange(0, size + 1, entries)
    return torch.zeros(features), CsrRows(starts, columns.flatten(), torch.randn(size))


def _moved(rows: CsrRows) -> int:
    """An entry's column and value once, and its parameter twice."""
    return rows.col_indices.nbytes + 3 * rows.values.nbytes


def _expected(param: Tensor, rows: CsrRows) -> Tensor:
    sums = torch.zeros(len(param), dtype=torch.float64)
    sums.index_add_(0, rows.col_indices, rows.values.double())
    counts = torch.bincount(rows.col_indices, minlength=len(param)).clamp(min=1)
    return (param.double() - LR * sums / counts).float()


def _check(run: Callable, step: Callable, group: str, param: Tensor, rows: CsrRows) -> None:
    once, expected = param.clone(), _expected(param, rows)
    step(once, rows)
    torch.testing.assert_close(once, expected, rtol=1e-5, atol=1e-5)
    run(group, step, param, rows, bytes_moved=_moved(rows))


@each_batch
@each_size
def test_kernel(run: Callable, small: bool, batch: tuple[int, int], features: int) -> None:
    def ours(param: Tensor, rows: CsrRows) -> None:
        sparse_mean_step_(param, rows, lr=LR)

    _check(run, ours, f"sparse_mean_step_ {batch} of {features}", *_case(batch, features, small))


@each_batch
@each_size
def test_torch_index_add(run: Callable, small: bool, batch: tuple[int, int], features: int) -> None:
    def dense(param: Tensor, rows: CsrRows) -> None:
        sums = torch.zeros_like(param).index_add_(0, rows.col_indices, rows.values)
        counts = torch.bincount(rows.col_indices, minlength=len(param)).clamp_(min=1)
        param.sub_(sums.div_(counts), alpha=LR)

    _check(run, dense, f"sparse_mean_step_ {batch} of {features}", *_case(batch, features, small))


@each_batch
@each_size
def test_torch_unique(run: Callable, small: bool, batch: tuple[int, int], features: int) -> None:
    def touched(param: Tensor, rows: CsrRows) -> None:
        columns, place, counts = torch.unique(
            rows.col_indices, return_inverse=True, return_counts=True
        )
        sums = torch.zeros(len(columns)).index_add_(0, place, rows.values)
        param.index_add_(0, columns, sums.div_(counts), alpha=-LR)

    _check(run, touched, f"sparse_mean_step_ {batch} of {features}", *_case(batch, features, small))


@pytest.mark.parametrize("shape", [(64, 4096), (256, 100_000)], ids=str)
@pytest.mark.parametrize("way", ["kernel", "torch"])
def test_rows_with_zeros(run: Callable, small: bool, shape: tuple[int, int], way: str) -> None:
    shape = (4, 70) if small else shape
    grads = torch.randn(shape) * (torch.rand(shape) < 0.1)
    param = torch.zeros(shape[1])

    def ours(param: Tensor, grads: Tensor) -> None:
        sparse_mean_step_(param, grads, lr=LR)

    def torchs(param: Tensor, grads: Tensor) -> None:
        param.sub_(grads.sum(0) / grads.ne(0).sum(0).clamp_(min=1), alpha=LR)

    step = ours if way == "kernel" else torchs
    once = param.clone()
    step(once, grads)
    wanted = -LR * grads.double().sum(0) / grads.ne(0).sum(0).clamp(min=1)
    torch.testing.assert_close(once.double(), wanted, rtol=1e-4, atol=1e-5)
    run(f"sparse_mean_step_ rows {shape}", step, param, grads, bytes_moved=grads.nbytes)
