"""`accumulate_moments_` beside eager torch, for chunks that are in cache and for larger ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import accumulate_moments_
from benchmarks.ops import peers

#: Bytes of a chunk, as layers cut their samples on a CPU, and of one that no cache holds.
CHUNKS = {"in cache": 4 << 20, "in memory": 128 << 20}
#: Rows before the chunk.
SAMPLES = 16


def ours(total: Tensor, squares: Tensor | None, norms: Tensor, chunk: Tensor) -> None:
    accumulate_moments_(total, squares, norms, chunk, samples=SAMPLES)


def eager(total: Tensor, squares: Tensor | None, norms: Tensor, chunk: Tensor) -> None:
    peers.add_chunk(total, squares, norms, chunk, SAMPLES)


def sums(rows: int, features: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.rand(features), torch.rand(features), torch.empty(rows, dtype=torch.float64)


def assert_same(contender: Callable, chunk: Tensor, squares: bool = True) -> None:
    total, spread, norms = sums(*chunk.shape)
    given = (total, spread if squares else None, norms)
    results, wanted = ([None if t is None else t.clone() for t in given] for _ in range(2))
    contender(*results, chunk)
    with use_backend("reference"):
        accumulate_moments_(*wanted, chunk, samples=SAMPLES)
    for one, other in zip(results, wanted, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", CHUNKS)
@pytest.mark.parametrize("rows", [1, 4, 8, 64])
@pytest.mark.parametrize("contender", [ours, eager])
def test_chunk(run: Callable, small: bool, size: str, rows: int, contender: Callable) -> None:
    chunk = torch.rand(rows, (1 << 16 if small else CHUNKS[size]) // 4 // rows).sub_(0.4)
    assert_same(contender, chunk)
    run(f"accumulate_moments {rows} rows {size}", contender, *sums(*chunk.shape), chunk,
        bytes_moved=chunk.nbytes + 16 * chunk.shape[1])  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("contender", [ours, eager])
def test_norms_alone(run: Callable, small: bool, dtype: torch.dtype, contender: Callable) -> None:
    size = 1 << 16 if small else CHUNKS["in cache"]
    chunk = torch.rand(8, size // dtype.itemsize // 8).sub_(0.4).to(dtype)
    assert_same(contender, chunk, squares=False)
    total, _, norms = sums(*chunk.shape)
    run("accumulate_moments of norms by dtype", contender, total, None, norms, chunk,
        bytes_moved=chunk.nbytes + 8 * chunk.shape[1])  # fmt: skip
