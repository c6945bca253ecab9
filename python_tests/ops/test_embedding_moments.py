"""`embedding_moments` against its definition and torch's own gradients."""

from __future__ import annotations

import pytest
import torch
from support.buffers import guarded
from support.gpu_executions import widest
from support.layer_oracles import assert_layer_moments, embedding
from support.tolerances import accumulation_dtype
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels.ops import LayerMoments, embedding_moments

# Samples, positions, features, rows of the weight: around vectors, tiles and segments of a run.
SHAPES = [
    (1, 1, 1, 1), (1, 1000, 17, 5), (2, 1, 7, 3), (2, 7, 33, 1), (3, 2, 8, 100), (3, 49, 257, 11),
    (31, 7, 16, 9), (31, 1, 513, 4), (130, 2, 31, 2), (600, 1, 9, 7), (3, 128, 65, 300),
]  # fmt: skip
ALL = {"variance": True, "inner_products": True}


def _case(
    samples: int, positions: int, features: int, rows: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Indices of which some come up often, and output gradients."""
    indices = (torch.rand(samples, positions) ** 2 * rows).long().clamp_(max=rows - 1)
    return indices, (torch.randn(samples, positions, features) + 0.3).to(dtype)


def _check(
    indices: Tensor, grads: Tensor, rows: int, padding_idx: int | None = None
) -> LayerMoments:
    asked = {**ALL, "variance": len(grads) > 1}
    actual = embedding_moments(indices, grads, rows, padding_idx=padding_idx, **asked)
    assert_layer_moments(actual, embedding(indices, grads, rows, padding_idx), False)
    return actual


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_the_definition(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    indices, grads = _case(*shape, dtype)
    actual = _check(indices, grads, shape[3])
    assert actual.weight_grad.dtype == accumulation_dtype(dtype)
    assert actual.sq_norms.dtype == torch.float64


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("inner_products", [False, True])
def test_gives_what_was_asked(backend: str, variance: bool, inner_products: bool) -> None:
    indices, grads = _case(5, 40, 33, 12, torch.float32)
    asked = {"variance": variance, "inner_products": inner_products}
    actual = embedding_moments(indices, grads, 12, **asked)
    assert actual.bias_grad is None
    assert actual.bias_variance is None
    assert (actual.weight_variance is not None) == variance
    assert (actual.inner_products is not None) == inner_products
    assert_layer_moments(actual, embedding(indices, grads, 12, None), False)


@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("padding_idx", [None, 0, 6])
def test_kinds_of_indices_and_padding(
    backend: str, kind: torch.dtype, padding_idx: int | None
) -> None:
    indices, grads = _case(6, 30, 19, 7, torch.float32)
    actual = _check(indices.to(kind), grads, 7, padding_idx)
    if padding_idx is not None:
        assert not actual.weight_grad[padding_idx].any()
    grads[indices == 0] = float("nan")
    if padding_idx == 0:
        again = embedding_moments(indices.to(kind), grads, 7, padding_idx=0, **ALL)
        assert all(a is None or torch.equal(a, b) for a, b in zip(again, actual, strict=True))


@pytest.mark.parametrize("shape", [(1, 700, 33), (70, 30, 300), (600, 1, 17)], ids=str)
def test_one_index_only(backend: str, shape: tuple[int, int, int]) -> None:
    if backend == "reference":  # adds up one row after the other
        shape = (shape[0], min(shape[1], 200), shape[2])
    grads = torch.randn(shape) + 1
    _check(torch.full(shape[:2], 2), grads, 4)


def test_more_dimensions_and_one(backend: str) -> None:
    grads = torch.randn(5, 3, 4, 9)
    indices = torch.randint(0, 6, (5, 3, 4))
    flat = embedding_moments(indices.flatten(1), grads.flatten(1, 2), 6, **ALL)
    actual = embedding_moments(indices, grads, 6, **ALL)
    assert all(a is None or torch.equal(a, b) for a, b in zip(actual, flat, strict=True))
    alone, rows = indices[:, 0, 0], grads[:, 0, 0]
    assert_layer_moments(
        embedding_moments(alone, rows, 6, **ALL), embedding(alone, rows, 6, None), False
    )


def test_strides_among_guards(backend: str, dtype: torch.dtype) -> None:
    indices, grads = _case(4, 9, 33, 5, dtype)
    turned = indices.mT.contiguous().mT
    for strides in ((9 * 40, 40, 1), (33, 4 * 33, 1)):
        _check(turned, guarded(grads, 1, strides).tensor, 5)
    _check(indices, grads[:1].expand(4, 9, 33), 5)


def test_untouched_rows_are_zeros(backend: str) -> None:
    indices = torch.tensor([[3, 3], [700, 3]])
    actual = embedding_moments(indices, torch.ones(2, 2, 300), 1000, **ALL)
    for tensor in (actual.weight_grad, actual.weight_variance):
        assert tensor is not None
        assert tensor.any(1).nonzero().flatten().tolist() == [3, 700]
        assert not tensor.isnan().any()


def test_gradient_is_that_of_autograd(backend: str) -> None:
    indices, grads = _case(32, 128, 64, 65, torch.float32)
    weight = torch.randn(65, 64).requires_grad_()
    F.embedding(indices, weight, padding_idx=4).backward(grads)
    ours = embedding_moments(indices, grads, 65, padding_idx=4).weight_grad
    torch.testing.assert_close(ours, weight.grad, rtol=1e-4, atol=1e-4)


def test_identities(backend: str) -> None:
    """Products add up to the squared gradient, norms to the sums of squares."""
    dtype = widest(backend)
    indices, grads = _case(31, 49, 65, 12, dtype)
    close = 1e-12 if dtype == torch.float64 else 1e-5
    actual = embedding_moments(indices, grads, 12, **ALL)
    assert actual.inner_products is not None
    assert actual.weight_variance is not None
    grad = actual.weight_grad
    squares = 30 * actual.weight_variance + grad.square() / 31
    products = float(actual.inner_products.sum())
    assert products == pytest.approx(float(grad.square().sum()), rel=close)
    assert float(actual.sq_norms.sum()) == pytest.approx(float(squares.sum()), rel=close)


def test_variance_beside_a_large_mean(backend: str) -> None:
    """Contributions whose mean is 1000 deviations: a difference of squares has no digit left."""
    grads = 1 + 1e-3 * torch.randn(600, 1, 33)
    actual = embedding_moments(torch.ones(600, 1, dtype=torch.int64), grads, 2, **ALL)
    wanted = grads.double()[:, 0].var(0).float()
    assert actual.weight_variance is not None
    torch.testing.assert_close(actual.weight_variance[1], wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_visible(backend: str, value: float) -> None:
    indices = torch.tensor([[0, 1], [1, 2], [2, 3]])
    grads = torch.randn(3, 2, 33)
    grads[1, 0, 20] = value
    actual = embedding_moments(indices, grads, 5, **ALL)
    assert actual.inner_products is not None
    for tensor in (actual.weight_grad, actual.weight_variance):
        assert tensor is not None
        assert tensor.isfinite().logical_not().nonzero().tolist() == [[1, 20]]
    assert actual.sq_norms.isfinite().tolist() == [True, False, True]
    assert not actual.inner_products[1].isfinite()
    if backend != "reference":  # which multiplies zeros by what is not finite
        assert actual.inner_products[2].isfinite()


def test_indices_outside_are_refused(backend: str) -> None:
    for index in (-1, 4):
        with pytest.raises(ValueError, match="accepted are 0 to 3"):
            embedding_moments(torch.tensor([[0, index]]), torch.ones(1, 2, 3), 4)


@pytest.mark.parametrize("shape", [(8, 1024, 513, 90), (600, 3, 33, 7)], ids=str)
def test_bits_do_not_depend_on_threads(isa: str, shape: tuple[int, int, int, int]) -> None:
    indices, grads = _case(*shape, torch.float64)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (2, 1, 2, 3):
            torch.set_num_threads(threads)
            results.append(embedding_moments(indices, grads, shape[3], **ALL))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one is None or torch.equal(one, two)
