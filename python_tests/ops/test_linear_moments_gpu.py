"""`linear_moments` on GPUs, executed in every way there is, around the sizes of their tiles."""

from __future__ import annotations

from collections.abc import Iterator

import layer_oracles
import pytest
import torch
from gpu_executions import DEVICES, ON_CPU, running
from layer_oracles import assert_layer_moments
from torch import Tensor

from adadagrad_kernels.ops import LayerMoments, linear_moments

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Samples, positions, outputs, inputs: around tiles of 64 and 32 features, patches of 4, and what is
# staged at once, 16 and 32 positions; short sequences of which several are staged together; enough
# positions to be split among blocks.
SHAPES = [
    (1, 1, 1, 1), (2, 1, 7, 31), (5, 1, 33, 64), (70, 1, 4, 5), (140, 1, 8, 72), (1, 2, 31, 7),
    (5, 7, 64, 33), (9, 2, 65, 8), (2, 33, 33, 65), (9, 7, 1, 130), (9, 33, 7, 31), (3, 70, 24, 16),
    (2, 3, 130, 64),
]  # fmt: skip


@pytest.fixture(params=[*ON_CPU, *(pytest.param(name, marks=pytest.mark.gpu) for name in DEVICES)])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each way to run the op on a GPU or as one would."""
    with running(request.param):
        yield request.param


@pytest.fixture(params=DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each element type of the kernels."""
    given: torch.dtype = request.param
    return given


def _layer(
    shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Inputs and output gradients with means of their own, as activations have."""
    samples, positions, outs, ins = shape
    inputs = torch.randn(samples, positions, ins) + 0.5
    grads = torch.randn(samples, positions, outs) - 0.25
    return inputs.to(dtype), grads.to(dtype)


def _assert_right(inputs: Tensor, grads: Tensor, bias: bool = True) -> LayerMoments:
    several = len(inputs) > 1
    moments = linear_moments(inputs, grads, bias=bias, variance=several, inner_products=True)
    assert_layer_moments(moments, layer_oracles.linear(inputs, grads), bias)
    return moments


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_the_definition(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int]
) -> None:
    moments = _assert_right(*_layer(shape, dtype))
    assert moments.weight_grad.dtype == torch.float32
    assert moments.sq_norms.dtype == torch.float64


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("inner_products", [False, True])
@pytest.mark.parametrize("samples", [3, 19])
def test_gives_what_was_asked(
    backend: str, samples: int, bias: bool, variance: bool, inner_products: bool
) -> None:
    inputs, grads = _layer((samples, 7, 5, 9))
    asked = {"bias": bias, "variance": variance, "inner_products": inner_products}
    moments = linear_moments(inputs, grads, **asked)
    assert_layer_moments(moments, layer_oracles.linear(inputs, grads), bias)
    assert (moments.bias_grad is not None) == bias
    assert (moments.weight_variance is not None) == variance
    assert (moments.bias_variance is not None) == (variance and bias)
    assert (moments.inner_products is not None) == inner_products


@pytest.mark.parametrize("offset", [0, 1, 8])
def test_rows_of_wider_tensors(backend: str, dtype: torch.dtype, offset: int) -> None:
    """Any distance apart, aligned and not; what lies between the rows is not a number."""
    samples, positions, outs, ins = 4, 3, 40, 68
    inputs = torch.full((samples + 1, positions + 2, ins + 2 * offset), torch.nan).to(dtype)
    grads = torch.full((samples + 1, positions + 1, outs + offset + 8), torch.nan).to(dtype)
    inputs = inputs[1:, 1 : positions + 1, offset : ins + offset]
    grads = grads[:samples, :positions, offset : outs + offset]
    for tensor, values in zip((inputs, grads), _layer((4, 3, outs, ins), dtype), strict=True):
        tensor.copy_(values)
    _assert_right(inputs, grads)


def test_one_row_for_all(backend: str) -> None:
    """Strides of zero."""
    inputs, grads = _layer((1, 1, 9, 36))
    _assert_right(inputs.expand(6, 1, 36), grads.expand(6, 1, 9))
    _assert_right(inputs.expand(6, 4, 36), grads.expand(6, 4, 9))


@pytest.mark.parametrize("shape", [(3,), (3, 2, 5)], ids=["none", "two"])
def test_dimensions_of_positions(backend: str, shape: tuple[int, ...]) -> None:
    inputs, grads = torch.randn(*shape, 6), torch.randn(*shape, 10)
    _assert_right(inputs, grads)


@pytest.mark.parametrize(
    "shape", [(3, 0, 5, 7), (3, 4, 0, 7), (3, 4, 5, 0)], ids=["positions", "outputs", "inputs"]
)
@pytest.mark.parametrize("bias", [False, True])
def test_what_is_empty(backend: str, shape: tuple[int, int, int, int], bias: bool) -> None:
    _assert_right(*_layer(shape), bias=bias)


@pytest.mark.parametrize("samples", [6, 40])
def test_variance_is_by_deviations(backend: str, samples: int) -> None:
    """Of contributions near 3600 that differ by ones a difference of squares is all error."""
    inputs, grads = torch.full((samples, 4, 5), 30.0), torch.full((samples, 4, 3), 30.0)
    inputs[:, 0] += torch.randn(samples, 5) / 32
    expected = layer_oracles.linear(inputs, grads).weight.var(0, ddof=1).reshape(3, 5)
    variance = linear_moments(inputs, grads, variance=True).weight_variance
    assert variance is not None
    torch.testing.assert_close(
        variance, torch.tensor(expected.astype("float32")), rtol=2e-3, atol=0
    )


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_what_is_not_finite_stays_where_it_is(backend: str, value: float) -> None:
    """In one sample's norm and product, in one column, in one row."""
    inputs, grads = _layer((5, 3, 66, 35))
    inputs[2, 1, 34] = value
    grads[3, 2, 65] = value
    moments = _assert_right(inputs, grads)
    finite = moments.weight_grad.isfinite()
    assert finite[:65, :34].all()
    assert not finite[:, 34].any()
    assert not finite[65].any()
    assert moments.sq_norms.isfinite().tolist() == [True, True, False, False, True]
    if value == torch.inf:  # and not NaN: it has met no zero beyond the edges of the layer
        assert moments.sq_norms[2:4].tolist() == [torch.inf, torch.inf]


def test_the_variance_changes_nothing_else(backend: str) -> None:
    inputs, grads = _layer((21, 6, 13, 10))
    with_it = linear_moments(inputs, grads, variance=True)
    without = linear_moments(inputs, grads)
    assert with_it.bias_grad is not None
    assert torch.equal(with_it.weight_grad, without.weight_grad)
    assert torch.equal(with_it.bias_grad, without.bias_grad)
    assert torch.equal(with_it.sq_norms, without.sq_norms)
