"""Sums over many rows are as exact as torch's, whose own go by blocks too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adadagrad_kernels.ops import (
    CsrRows,
    accumulate_moments_,
    batch_adagrad_step_,
    batch_moments,
    embedding_moments,
    norm_layer_moments,
    sparse_mean_step_,
)

ROWS = (64, 512, 1500, 4096, 20_000)
#: Rows of a chunk. Sums are float32 between chunks, and what is allowed beside torch's error is
#: twice as much.
CHUNK = 512
#: What is at most twice torch's error may also be off by the rounding of the result.
FLOOR = torch.finfo(torch.float32).eps
ALL = {"variance": True, "inner_products": True}


def _moments_of(rows: Tensor, name: str) -> dict[str, Tensor | None]:
    """What an op says of a matrix in which every row is one sample's gradient."""
    samples, features = rows.shape
    if name == "batch_moments":
        return batch_moments(rows)._asdict()
    if name == "batch_moments without variance":
        return batch_moments(rows, variance=False)._asdict()
    if name == "batch_adagrad_step_":
        state = torch.zeros(features), torch.ones(features)
        return batch_adagrad_step_(*state, rows, lr=0.1, **ALL)._asdict()
    if name == "accumulate_moments_":
        total, squares = torch.empty(2, features)
        norms = torch.empty(samples, dtype=torch.float64)
        for start in range(0, samples, CHUNK):
            part = slice(start, start + CHUNK)
            accumulate_moments_(total, squares, norms[part], rows[part], samples=start)
        return {"mean": total / samples, "variance": squares / (samples - 1)}
    if name.startswith("sparse_mean_step_"):
        param, values = torch.zeros(features), rows
        if name.endswith("CSR"):
            columns = torch.arange(features).repeat(samples)
            values = CsrRows(torch.arange(samples + 1) * features, columns, rows.flatten())
        sparse_mean_step_(param, values, lr=1.0, mode="mean")
        return {"mean": -param}
    if name == "embedding_moments":
        looked_up = torch.zeros(samples, 1, dtype=torch.int64)
        found = embedding_moments(looked_up, rows[:, None], 2, **ALL)
    else:
        ones = torch.ones(samples, 1, features)
        found = norm_layer_moments(
            ones, rows[:, None], None, torch.ones(samples, 1, 1), bias=False, **ALL
        )
    return {
        "mean": found.weight_grad.view(-1, features)[0] / samples,
        "variance": found.weight_variance.view(-1, features)[0],
        "inner_products": found.inner_products / samples,
    }


#: What Triton's squared deviations of an embedding's row add for 20,000 samples that look it up.
SQUARES_OF_RUNS = 3e-7


def _error(given: Tensor, exact: Tensor) -> float:
    return ((given.double() - exact).norm() / exact.norm()).item()


def _assert_as_exact_as_torch(
    found: dict[str, Tensor | None],
    rows: Tensor,
    columns: slice | list[int] = slice(None),
    floor: float = FLOOR,
) -> None:
    """Statistics of columns within twice torch's error, and inner products where all are there."""
    exact = rows.double()
    mean = exact.mean(0)
    pairs = {
        "mean": (rows.mean(0), mean),
        "variance": (rows.var(0), exact.var(0)),
        "inner_products": (exact @ rows.mean(0).double(), exact @ mean),
    }
    for statistic, (theirs, expected) in pairs.items():
        ours = found.get(statistic)
        if ours is None or (statistic == "inner_products" and columns != slice(None)):
            continue
        error = _error(ours if statistic == "inner_products" else ours[columns], expected)
        allowed = 2 * _error(theirs, expected) + floor
        assert error <= allowed, f"{statistic}: off by {error:.2g}, allowed {allowed:.2g}"


@pytest.mark.parametrize("center", [0.0, 3.0])
@pytest.mark.parametrize("samples", ROWS)
@pytest.mark.parametrize(
    "name",
    [
        "batch_moments",
        "batch_moments without variance",
        "batch_adagrad_step_",
        "accumulate_moments_",
        "norm_layer_moments",
        "embedding_moments",
        "sparse_mean_step_ of rows",
        "sparse_mean_step_ of CSR",
    ],
)
def test_sums_are_as_exact_as_torch_s(backend: str, name: str, samples: int, center: float) -> None:
    rows = torch.randn(samples, 37) + center
    floor = 2 * FLOOR if name == "accumulate_moments_" else FLOOR
    if backend.startswith("triton") and name == "embedding_moments":
        floor = SQUARES_OF_RUNS  # squares of a row's runs are eight chains, however many there are
    _assert_as_exact_as_torch(_moments_of(rows, name), rows, floor=floor)


def test_so_are_those_of_so_many_columns_that_rows_are_not_cut(isa: str) -> None:
    """64 tiles of columns. The rows overlap in memory, of which there is little."""
    samples, features, stride = 4096, 64 * 4096, 16
    memory = torch.randn(samples * stride + features)
    rows = memory.as_strided((samples, features), (stride, 1))
    columns = list(range(0, features, 5003))
    for variance in (False, True):
        found = batch_moments(rows, variance=variance, inner_products=False)._asdict()
        _assert_as_exact_as_torch(found, rows[:, columns], columns)


@pytest.mark.parametrize("center", [0.0, 3.0])
def test_so_are_those_of_few_parts_of_many_rows(
    backend: str, center: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a matrix with so many columns that Triton's programs have thousands of rows each."""
    if not backend.startswith("triton"):
        pytest.skip("how rows are cut is set in Triton's backend alone")
    from adadagrad_kernels.backends.triton.kernels import _moments

    monkeypatch.setattr(_moments, "PROGRAMS", 1)
    rows = torch.randn(4096, 37) + center
    _assert_as_exact_as_torch(_moments_of(rows, "batch_moments"), rows)
