"""`linear_moments` against its definition, for every backend, instruction set and dtype."""

from __future__ import annotations

import itertools

import pytest
import torch
from support.buffers import guarded, taken
from support.layer_oracles import assert_layer_moments, linear
from support.tolerances import accumulation_dtype
from torch import Tensor

from adadagrad_kernels.ops import linear_moments

# Samples, positions, inputs, outputs: around the widths of vectors and tiles; one position, few,
# many; more samples than a block holds.
SHAPES = [
    (1, 1, 1, 1), (2, 1, 7, 9), (3, 2, 8, 15), (31, 7, 16, 17), (33, 16, 31, 33), (2, 49, 47, 48),
    (3, 128, 49, 100), (600, 2, 9, 8), (600, 1, 33, 7), (1, 16, 100, 47), (2, 1, 100, 100),
    (600, 3, 1, 17), (2, 2, 129, 1), (130, 20, 25, 13), (3, 2000, 10, 9), (9, 5, 300, 70),
    (3, 0, 4, 5), (3, 2, 0, 5), (3, 2, 4, 0), (1100, 1, 10, 12),
]  # fmt: skip
ASKED = list(itertools.product([False, True], repeat=3))


def case(
    samples: int, positions: int, inputs: int, outputs: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Tensors whose features differ in scale and mean."""
    generator = torch.Generator().manual_seed(samples + 7 * positions + 31 * inputs + outputs)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(samples, positions, inputs) * normal(inputs).exp() + normal(inputs)
    y = normal(samples, positions, outputs) * normal(outputs).exp() + 0.3 * normal(outputs)
    return x.to(dtype), y.to(dtype)


def everything(x: Tensor, y: Tensor, bias: bool = True):
    return linear_moments(x, y, bias=bias, variance=len(x) > 1, inner_products=True)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_the_definition(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    x, y = case(*shape, dtype)
    actual = everything(x, y)
    assert_layer_moments(actual, linear(x, y), bias=True)
    assert actual.weight_grad.dtype == accumulation_dtype(dtype)
    assert actual.sq_norms.dtype == actual.inner_products.dtype == torch.float64


@pytest.mark.parametrize(("bias", "variance", "inner_products"), ASKED)
@pytest.mark.parametrize("shape", [(9, 1, 33, 17), (9, 3, 200, 150), (40, 30, 50, 34)])
def test_gives_what_was_asked(
    backend: str, shape: tuple[int, ...], bias: bool, variance: bool, inner_products: bool
) -> None:
    x, y = case(*shape, torch.float32)
    actual = linear_moments(x, y, bias=bias, variance=variance, inner_products=inner_products)
    assert (actual.weight_variance is not None) == variance
    assert (actual.bias_variance is not None) == (variance and bias)
    assert (actual.bias_grad is not None) == bias
    assert (actual.inner_products is not None) == inner_products
    assert_layer_moments(actual, linear(x, y), bias)


# Several chunks of samples, and of rows.
LARGE = [(33, 40, 300, 310), (700, 13, 60, 20), (3000, 11, 40, 30), (3, 3000, 30, 300)]


@pytest.mark.large
@pytest.mark.parametrize("inner_products", [False, True])
@pytest.mark.parametrize("shape", LARGE, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_the_definition_at_real_sizes(
    isa: str, shape: tuple[int, int, int, int], inner_products: bool
) -> None:
    x, y = case(*shape, torch.float32)
    actual = linear_moments(x, y, variance=True, inner_products=inner_products)
    assert_layer_moments(actual, linear(x, y), bias=True)


@pytest.mark.parametrize("layout", ["time first", "padded", "one for all", "transposed features"])
def test_reads_strided_tensors(backend: str, dtype: torch.dtype, layout: str) -> None:
    x, y = case(9, 5, 34, 19, dtype)
    expected = linear(x, y)
    if layout == "time first":  # [T, B, d], seen as [B, T, d]
        x, y = (z.transpose(0, 1).contiguous().transpose(0, 1) for z in (x, y))
    elif layout == "padded":
        x, y = torch.cat([x, x], 2)[:, :, :34], torch.cat([y, y, y], 2)[:, :, 19:38]
    elif layout == "one for all":
        y = y[:, :1].expand(9, 5, 19)
        expected = linear(x, y)
    else:
        x = x.mT.contiguous().mT
    assert_layer_moments(everything(x, y), expected, bias=True)


@pytest.mark.parametrize("shape", [(7, 33), (7, 3, 33), (7, 3, 4, 33), (7, 2, 1, 2, 33)])
def test_any_dimensions_lie_between_samples_and_features(
    backend: str, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    y = torch.randn(*shape[:-1], 9)
    assert_layer_moments(everything(x, y), linear(x, y), bias=True)


@pytest.mark.parametrize("positions", [1, 3, 20])
@pytest.mark.parametrize("offset", [1, 3])
def test_reads_only_its_tensors(
    backend: str, dtype: torch.dtype, positions: int, offset: int
) -> None:
    """Guards of NaN, at addresses that no vector is aligned to."""
    dtype = taken(dtype)
    x, y = case(6, positions, 37, 21, dtype)
    strides = [(positions * (z.shape[2] + 3), z.shape[2] + 3, 1) for z in (x, y)]
    ours = [guarded(z, offset, s) for z, s in zip((x, y), strides, strict=True)]
    actual = everything(*(one.tensor for one in ours))
    assert_layer_moments(actual, linear(x, y), bias=True)
    for one in ours:
        one.assert_outside_untouched()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("inner_products", [False, True])
def test_variance_is_of_deviations(backend: str, dtype: torch.dtype, inner_products: bool) -> None:
    """|mean| = 1000 deviations; a difference of squares would keep no digit of float32."""
    generator = torch.Generator().manual_seed(1)
    y = torch.ones(300, 2, 3, dtype=dtype)
    x = (1000 + torch.randn(300, 2, 20, generator=generator)).to(dtype)
    actual = linear_moments(x, y, variance=True, inner_products=inner_products)
    expected = (x.double().sum(1)).var(0).expand(3, 20)
    torch.testing.assert_close(actual.weight_variance.double(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("positions", [1, 2, 20])
def test_what_is_not_finite_shows_where_it_belongs(
    backend: str, positions: int, value: float
) -> None:
    x, y = case(5, positions, 20, 18, torch.float32)
    x[3, 0, 7] = value
    actual = everything(x, y)
    bad_sample, bad_column = torch.arange(5) == 3, torch.arange(20) == 7
    assert torch.equal(~actual.sq_norms.isfinite(), bad_sample)
    assert not actual.inner_products.isfinite().any(), "every product is with the gradient"
    for matrix in (actual.weight_grad, actual.weight_variance):
        assert torch.equal(~matrix.isfinite(), bad_column.expand(18, 20))
    assert actual.bias_grad.isfinite().all()
    assert actual.bias_variance.isfinite().all()


@pytest.mark.parametrize("positions", [1, 4, 33])
def test_identities(backend: str, positions: int) -> None:
    """Products add up to the gradient's norm, sums of squares to the norms."""
    x, y = case(12, positions, 50, 40, torch.float32)
    moments = everything(x, y)
    grads = torch.cat([moments.weight_grad.flatten(), moments.bias_grad]).double()
    spread = torch.cat([moments.weight_variance.flatten(), moments.bias_variance]).double()
    torch.testing.assert_close(moments.inner_products.sum(), grads.square().sum(), rtol=1e-5,
                               atol=0)  # fmt: skip
    squares = 11 * spread + grads.square() / 12
    torch.testing.assert_close(squares.sum(), moments.sq_norms.sum(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("positions", [(), (6,), (2, 3)])
def test_the_gradient_is_autograds(backend: str, positions: tuple[int, ...]) -> None:
    layer = torch.nn.Linear(30, 11)
    x = torch.randn(8, *positions, 30)
    out = layer(x)
    y = torch.randn_like(out)
    out.backward(y)
    moments = linear_moments(x, y)
    for ours, theirs in ((moments.weight_grad, layer.weight.grad),
                         (moments.bias_grad, layer.bias.grad)):  # fmt: skip
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(40, 1, 200, 150), (40, 2, 200, 150), (33, 30, 90, 100)])
@pytest.mark.parametrize("asked", [(False, False), (True, False), (False, True), (True, True)])
def test_bits_are_the_same_from_run_to_run(
    backend: str, shape: tuple[int, int, int, int], asked: tuple[bool, bool]
) -> None:
    """For one number of threads: with another one a vendor's product may add in another order."""
    x, y = case(*shape, torch.float32)
    first, second = (
        linear_moments(x, y, variance=asked[0], inner_products=asked[1]) for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("positions", [(), (2,)], ids=str)
def test_rank_one_and_gram_have_the_bits_of_autograd(
    dtype: torch.dtype, positions: tuple[int, ...]
) -> None:
    layer = torch.nn.Linear(130, 70).to(dtype)
    x = torch.randn(40, *positions, 130).to(dtype)
    out = layer(x)
    y = torch.randn_like(out)
    out.backward(y)
    moments = linear_moments(x, y)
    assert torch.equal(moments.weight_grad.to(dtype), layer.weight.grad)
    assert torch.equal(moments.bias_grad.to(dtype), layer.bias.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("positions", [(), (2,), (40,)], ids=str)
def test_autocast_changes_nothing(dtype: torch.dtype, positions: tuple[int, ...]) -> None:
    x, y = torch.randn(9, *positions, 33).to(dtype), torch.randn(9, *positions, 17).to(dtype)
    plain = everything(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = everything(x, y)
    for one, other in zip(plain, cast, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
