"""`embedding_moments` beside torch's dense backward of an embedding, which gives the gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adadagrad_kernels.ops import embedding_moments

# Samples, positions, rows of the weight, features.
SHAPES = [(32, 128, 1024, 256), (32, 128, 65, 256), (8, 1024, 50257, 768)]


def _case(shape: tuple[int, int, int, int], small: bool) -> tuple[Tensor, Tensor, int]:
    samples, positions, rows, features = (4, 8, 20, 64) if small else shape
    indices = (torch.rand(samples, positions) ** 3 * rows).long().clamp_(max=rows - 1)
    return indices, torch.randn(samples, positions, features), rows


def _dense(indices: Tensor, grads: Tensor, rows: int) -> Tensor:
    gradient: Tensor = torch.ops.aten.embedding_dense_backward(grads, indices, rows, -1, False)
    return gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("asked", ["norms", "all"])
def test_kernel(run: Callable, small: bool, shape: tuple[int, int, int, int], asked: str) -> None:
    indices, grads, rows = _case(shape, small)
    also = {"variance": asked == "all", "inner_products": asked == "all"}

    def ours(grads: Tensor) -> tuple[Tensor | None, ...]:
        return embedding_moments(indices, grads, rows, **also)

    actual = run(f"embedding_moments {shape}", ours, grads, bytes_moved=grads.nbytes)
    wanted = _dense(indices, grads, rows)
    torch.testing.assert_close(actual.weight_grad, wanted, rtol=1e-3, atol=1e-3)
    # Sample by sample: its own dense gradient, without a matrix of all of them.
    for sample in (0, len(grads) - 1):
        own = _dense(indices[sample], grads[sample], rows).double()
        assert float(actual.sq_norms[sample]) == pytest.approx(float(own.square().sum()), rel=1e-5)
        if asked == "all":
            product = float((own * wanted).sum())
            assert float(actual.inner_products[sample]) == pytest.approx(product, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch(run: Callable, small: bool, shape: tuple[int, int, int, int]) -> None:
    indices, grads, rows = _case(shape, small)

    def torchs(grads: Tensor) -> Tensor:
        return _dense(indices, grads, rows)

    result = run(f"embedding_moments {shape}", torchs, grads, bytes_moved=grads.nbytes)
    wanted = torch.zeros_like(result).index_add_(0, indices.flatten(), grads.flatten(0, 1))
    torch.testing.assert_close(result, wanted, rtol=1e-3, atol=1e-3)
