"""`norm_layer_moments` against its definition and torch's own gradients."""

from __future__ import annotations

import pytest
import torch
from support.buffers import guarded
from support.gpu_executions import widest
from support.layer_oracles import assert_layer_moments, norm_layer
from support.tolerances import accumulation_dtype
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels.ops import LayerMoments, norm_layer_moments

# Samples, positions, features: around the vectors, the groups of positions and their segments.
SHAPES = [
    (1, 1, 1), (1, 1000, 17), (2, 1, 7), (2, 7, 33), (2, 257, 65), (3, 2, 8), (3, 49, 31),
    (3, 128, 1025), (31, 7, 16), (31, 1, 100), (600, 2, 9), (600, 1, 17), (5, 3, 2049),
]  # fmt: skip
ALL = {"variance": True, "inner_products": True}


def _case(
    samples: int, positions: int, features: int, dtype: torch.dtype, groups: int | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs, output gradients, mean and rstd, of each position or of groups."""
    sums = accumulation_dtype(dtype)
    shape = (samples, positions, features)
    inputs = (torch.randn(shape) * 2 + 1).to(dtype)
    grads = (torch.randn(shape) + 0.3).to(dtype)
    statistics = (samples, 1, groups) if groups else (samples, positions, 1)
    return inputs, grads, torch.randn(statistics).to(sums), (torch.rand(statistics) + 0.5).to(sums)


def _check(*arguments: Tensor | None, bias: bool = True) -> LayerMoments:
    inputs, grads, mean, rstd = arguments
    assert inputs is not None
    assert grads is not None
    assert rstd is not None
    asked = {**ALL, "variance": len(inputs) > 1}
    actual = norm_layer_moments(inputs, grads, mean, rstd, bias=bias, **asked)
    assert_layer_moments(actual, norm_layer(inputs, grads, mean, rstd), bias)
    return actual


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_the_definition(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    inputs, grads, mean, rstd = _case(*shape, dtype)
    actual = _check(inputs, grads, mean, rstd)
    assert actual.weight_grad.dtype == accumulation_dtype(dtype)
    assert actual.sq_norms.dtype == torch.float64
    _check(inputs, grads, None, rstd, bias=False)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_groups_of_features(backend: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """Both layouts of an image, channels first and last, and one of each."""
    groups = next(n for n in (4, 3, 11, 5, 1) if shape[2] % n == 0)
    inputs, grads, mean, rstd = _case(*shape, dtype, groups)
    _check(inputs, grads, mean, rstd)
    turned = [tensor.mT.contiguous().mT for tensor in (inputs, grads)]
    _check(*turned, mean, rstd)
    _check(turned[0], grads, None, rstd)
    _check(inputs, turned[1], mean, rstd, bias=False)


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("inner_products", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gives_what_was_asked(
    backend: str, bias: bool, variance: bool, inner_products: bool
) -> None:
    case = _case(5, 12, 33, torch.float32)
    asked = {"variance": variance, "inner_products": inner_products}
    actual = norm_layer_moments(*case, bias=bias, **asked)
    assert (actual.bias_grad is not None) == bias
    assert (actual.weight_variance is not None) == variance
    assert (actual.bias_variance is not None) == (variance and bias)
    assert (actual.inner_products is not None) == inner_products
    assert_layer_moments(actual, norm_layer(*case), bias)


@pytest.mark.parametrize("groups", [None, 3])
def test_strides_among_guards(backend: str, dtype: torch.dtype, groups: int | None) -> None:
    """NaN lies between and around what is read."""
    inputs, grads, mean, rstd = _case(4, 9, 33, dtype, groups)
    layouts = [(9 * 40, 40, 1), (9 * 70, 70, 2), (33 * 11, 1, 11), (1, 4 * 34, 4)]
    for strides in layouts:
        for others in layouts:
            placed = guarded(inputs, 1, strides).tensor, guarded(grads, 3, others).tensor
            _check(*placed, mean, rstd)


def test_gradients_are_those_of_autograd(backend: str) -> None:
    x, y = torch.randn(6, 10, 24), torch.randn(6, 10, 24)
    weight, bias = torch.randn(24).requires_grad_(), torch.randn(24).requires_grad_()
    F.layer_norm(x, (24,), weight, bias).backward(y)
    mean, var = x.mean(2, keepdim=True), x.var(2, keepdim=True, correction=0)
    ours = norm_layer_moments(x, y, mean, (var + 1e-5).rsqrt())
    torch.testing.assert_close(ours.weight_grad, weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.bias_grad, bias.grad, rtol=1e-4, atol=1e-4)

    scale = torch.randn(24).requires_grad_()
    F.rms_norm(x, (24,), scale, 1e-6).backward(y)
    rstd = (x.square().mean(2, keepdim=True) + 1e-6).rsqrt()
    ours = norm_layer_moments(x, y, None, rstd, bias=False)
    torch.testing.assert_close(ours.weight_grad, scale.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_group_norm_is_that_of_autograd(backend: str, layout: torch.memory_format) -> None:
    x = torch.randn(5, 12, 7, 6).to(memory_format=layout)
    y = torch.randn(5, 12, 7, 6).to(memory_format=layout)
    weight, bias = torch.randn(12).requires_grad_(), torch.randn(12).requires_grad_()
    F.group_norm(x.contiguous(), 3, weight, bias).backward(y.contiguous())
    grouped = x.reshape(5, 1, 3, -1)
    mean, var = grouped.mean(3), grouped.var(3, correction=0)
    ours = norm_layer_moments(x.flatten(2).mT, y.flatten(2).mT, mean, (var + 1e-5).rsqrt())
    torch.testing.assert_close(ours.weight_grad, weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.bias_grad, bias.grad, rtol=1e-4, atol=1e-4)


def test_identities(backend: str) -> None:
    """Products add up to the squared gradient, norms to the sums of squares."""
    dtype = widest(backend)
    actual = norm_layer_moments(*_case(31, 49, 65, dtype), **ALL)
    close = 1e-12 if dtype == torch.float64 else 1e-5
    assert actual.inner_products is not None
    gradient, squares = 0.0, 0.0
    for part in ("weight", "bias"):
        grad, variance = getattr(actual, f"{part}_grad"), getattr(actual, f"{part}_variance")
        gradient += float(grad.square().sum())
        squares += float((30 * variance + grad.square() / 31).sum())
    assert float(actual.inner_products.sum()) == pytest.approx(gradient, rel=close)
    assert float(actual.sq_norms.sum()) == pytest.approx(squares, rel=close)


def test_variance_beside_a_large_mean(backend: str) -> None:
    """Contributions whose mean is 1000 deviations: a difference of squares has no digit left."""
    noise = torch.randn(600, 1, 33)
    x = torch.ones(600, 1, 33)
    y = 1 + 1e-3 * noise
    actual = norm_layer_moments(x, y, None, torch.ones(600, 1, 1), **ALL)
    wanted = y.double()[:, 0].var(0).float()
    torch.testing.assert_close(actual.weight_variance, wanted, rtol=1e-3, atol=0)
    torch.testing.assert_close(actual.bias_variance, wanted, rtol=1e-3, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("groups", [None, 3])
def test_what_is_not_finite_stays_visible(backend: str, groups: int | None, value: float) -> None:
    inputs, grads, mean, rstd = _case(5, 9, 33, torch.float32, groups)
    for turned in (False, True):
        broken = grads.clone()
        broken[2, 4, 20] = value
        layout = [t.mT.contiguous().mT if turned else t for t in (inputs, broken)]
        actual = norm_layer_moments(*layout, mean, rstd, **ALL)
        assert actual.inner_products is not None
        for tensor in (actual.weight_grad, actual.bias_grad, actual.weight_variance):
            assert tensor is not None
            assert tensor.isfinite().logical_not().nonzero().flatten().tolist() == [20]
        assert actual.sq_norms.isfinite().tolist() == [True, True, False, True, True]
        assert not actual.inner_products.isfinite().any()


@pytest.mark.parametrize("shape", [(3, 600, 1100), (1, 300, 70), (600, 3, 33)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
def test_bits_do_not_depend_on_threads(isa: str, shape: tuple[int, int, int], turned: bool) -> None:
    inputs, grads, mean, rstd = _case(*shape, torch.float64, 1)
    if turned:
        inputs, grads = inputs.mT.contiguous().mT, grads.mT.contiguous().mT
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (2, 1, 2, 3):
            torch.set_num_threads(threads)
            asked = {**ALL, "variance": shape[0] > 1}
            results.append(norm_layer_moments(inputs, grads, mean, rstd, **asked))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one is None or torch.equal(one, two)
