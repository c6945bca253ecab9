"""`batch_moments` beside eager torch and torch.compile, from few rows to many."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import BatchMoments, batch_moments
from benchmarks.ops import peers

ROWS = (8, 64, 512, 4096)


@cache
def per_sample_grads(rows: int, size: int, dtype: torch.dtype) -> Tensor:
    """G of ``size`` bytes; its rows are not a multiple of a page apart, as in most models."""
    features = size // dtype.itemsize // rows - 3
    return torch.rand(rows, max(1, features)).sub_(0.4).to(dtype)


@cache
def expected(rows: int, size: int, dtype: torch.dtype) -> BatchMoments:
    with use_backend("reference"):
        return batch_moments(per_sample_grads(rows, size, dtype))


def assert_same(actual: tuple[Tensor | None, ...], wanted: BatchMoments) -> None:
    """Everything that is there, to the precision that float32 expressions share."""
    for name, ours, theirs in zip(BatchMoments._fields, actual, wanted, strict=True):
        if ours is not None and ours.numel():
            scale = float(theirs.abs().max())
            close = torch.isclose(ours.double(), theirs.double(), rtol=1e-3, atol=1e-4 * scale)
            assert close.all(), name


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("asked", ["norms", "variance", "products", "all"])
def test_kernel(run: Callable, grads_bytes: int, rows: int, asked: str) -> None:
    grads = per_sample_grads(rows, grads_bytes, torch.float32)
    variance, products = asked in ("variance", "all"), asked in ("products", "all")

    def ours(tensor: Tensor) -> BatchMoments:
        return batch_moments(tensor, variance=variance, inner_products=products)

    moments = run(f"batch_moments {rows} rows", ours, grads, bytes_moved=grads.nbytes)
    assert_same(moments, expected(rows, grads_bytes, torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_kernel_in_other_dtypes(run: Callable, grads_bytes: int, dtype: torch.dtype) -> None:
    grads = per_sample_grads(64, grads_bytes, dtype)
    moments = run("batch_moments 64 rows by dtype", batch_moments, grads, bytes_moved=grads.nbytes)
    assert_same(moments, expected(64, grads_bytes, dtype))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("expression", peers.EAGER)
def test_eager(run: Callable, grads_bytes: int, rows: int, expression: str) -> None:
    grads = per_sample_grads(rows, grads_bytes, torch.float32)
    eager = peers.EAGER[expression]
    results = run(f"batch_moments {rows} rows", eager, grads, bytes_moved=grads.nbytes)
    assert_same(results, expected(rows, grads_bytes, torch.float32))


@pytest.mark.parametrize("rows", [64, 512])
@pytest.mark.parametrize("expression", ["plain", "by_elements"])
def test_compiled(run: Callable, grads_bytes: int, small: bool, rows: int, expression: str) -> None:
    if small and (rows, expression) != (64, "plain"):
        pytest.skip("compiling takes its time: the small size has one of them")
    grads = per_sample_grads(rows, grads_bytes, torch.float32)
    compiled = torch.compile(peers.EAGER[expression])
    compiled(grads)
    results = run(f"batch_moments {rows} rows", compiled, grads, bytes_moved=grads.nbytes)
    assert_same(results, expected(rows, grads_bytes, torch.float32))
