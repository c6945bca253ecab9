"""`conv_moments` against its definition, for every backend, instruction set and dtype."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from support.buffers import guarded
from support.layer_oracles import assert_layer_moments, conv
from torch import Tensor

from adadagrad_kernels.ops import conv_moments


@dataclass(frozen=True)
class Case:
    """One convolution."""

    samples: int
    channels: tuple[int, int]
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    def settings(self) -> dict[str, tuple[int, ...]]:
        n = len(self.kernel)
        return {
            "stride": self.stride or (1,) * n,
            "padding": self.padding or (0,) * n,
            "dilation": self.dilation or (1,) * n,
        }

    def tensors(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(self.samples, self.channels[0], *self.size, generator=generator)
        space = [
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, k, s, p, d in zip(
                self.size, self.kernel, *self.settings().values(), strict=True
            )
        ]
        shape = (self.samples, self.channels[1], *space)
        y = torch.randn(shape, generator=generator) + 0.2
        return x.to(dtype), y.to(dtype)

    def moments(self, x: Tensor, y: Tensor, **asked: bool):
        asked = {"variance": self.samples > 1, "inner_products": True, **asked}
        return conv_moments(x, y, self.kernel, **self.settings(), groups=self.groups, **asked)

    def expected(self, x: Tensor, y: Tensor):
        return conv(x, y, self.kernel, *self.settings().values(), self.groups)


CASES = {
    "first of mnist": Case(3, (1, 16), (28, 28), (5, 5), padding=(2, 2)),
    "second of mnist": Case(3, (16, 32), (14, 14), (5, 5), padding=(2, 2)),
    "1-d": Case(5, (3, 7), (19,), (4,), stride=(3,), padding=(2,), dilation=(2,)),
    "3-d": Case(2, (2, 5), (4, 5, 6), (2, 3, 1), stride=(1, 2, 1), padding=(1, 0, 1),
                dilation=(1, 1, 2)),
    "uneven": Case(4, (2, 3), (9, 11), (3, 2), stride=(2, 3), padding=(2, 1), dilation=(2, 3)),
    "groups": Case(5, (6, 12), (7, 8), (3, 3), padding=(1, 1), groups=3),
    "depthwise": Case(4, (9, 9), (6, 6), (3, 3), padding=(1, 1), groups=9),
    "depthwise with more outputs": Case(4, (5, 10), (8,), (3,), groups=5),
    "pointwise": Case(600, (5, 33), (2, 2), (1, 1)),
    "one position": Case(33, (3, 17), (4, 4), (4, 4)),
    "one sample": Case(1, (3, 4), (5, 5), (2, 2)),
    "wide": Case(2, (2, 100), (5, 6), (3, 3)),
    "rgb": Case(3, (3, 64), (9, 9), (3, 3), stride=(2, 2), padding=(1, 1)),
    "much padding": Case(3, (2, 3), (2, 2), (3, 3), padding=(4, 4)),
    "no outputs": Case(3, (2, 0), (4, 4), (3, 3)),
    "no inputs": Case(3, (0, 4), (4, 4), (3, 3)),
}  # fmt: skip
SOME = ("uneven", "groups", "3-d", "rgb")


@pytest.mark.parametrize("name", CASES)
def test_matches_the_definition(backend: str, dtype: torch.dtype, name: str) -> None:
    case = CASES[name]
    x, y = case.tensors(dtype)
    assert_layer_moments(case.moments(x, y), case.expected(x, y), bias=True)


@pytest.mark.parametrize(
    ("bias", "variance", "inner_products"), list(itertools.product([False, True], repeat=3))
)
@pytest.mark.parametrize("name", ["groups", "pointwise", "second of mnist"])
def test_gives_what_was_asked(
    backend: str, name: str, bias: bool, variance: bool, inner_products: bool
) -> None:
    case = CASES[name]
    x, y = case.tensors()
    asked = {"bias": bias, "variance": variance, "inner_products": inner_products}
    actual = case.moments(x, y, **asked)
    assert_layer_moments(actual, case.expected(x, y), bias)
    assert (actual.bias_grad is not None) == bias
    assert (actual.weight_variance is not None) == variance
    assert (actual.inner_products is not None) == inner_products


# Splits of the samples, values kept for the inner products, and values computed again.
LARGE = {
    "blocks": Case(40, (16, 32), (14, 14), (5, 5), padding=(2, 2)),
    "splits": Case(300, (1, 16), (12, 12), (5, 5), padding=(2, 2)),
    "too many to keep": Case(3000, (3, 20), (4, 4), (3, 3), padding=(1, 1)),
    "groups and blocks": Case(700, (4, 8), (5, 5), (3, 3), groups=2),
}


@pytest.mark.large
@pytest.mark.parametrize("inner_products", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_matches_the_definition_at_real_sizes(isa: str, name: str, inner_products: bool) -> None:
    case = LARGE[name]
    x, y = case.tensors()
    actual = case.moments(x, y, inner_products=inner_products)
    assert_layer_moments(actual, case.expected(x, y), bias=True)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("layout", ["channels last", "spaced", "samples inside", "mixed"])
def test_reads_any_strides(backend: str, dtype: torch.dtype, name: str, layout: str) -> None:
    case = CASES[name]
    x, y = case.tensors(dtype)
    expected = case.expected(x, y)

    def laid_out(z: Tensor) -> Tensor:
        if layout == "spaced":
            return torch.stack([z, z], -1)[..., 0]
        order = list(range(z.dim()))
        order = [0, *order[2:], 1] if layout == "channels last" else order[::-1]
        inverse = [order.index(axis) for axis in range(z.dim())]
        return z.permute(order).contiguous().permute(inverse)

    x, y = (x if layout == "mixed" else laid_out(x)), laid_out(y)
    assert_layer_moments(case.moments(x, y), expected, bias=True)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("offset", [1, 3])
def test_reads_only_its_tensors(backend: str, dtype: torch.dtype, name: str, offset: int) -> None:
    case = CASES[name]
    x, y = case.tensors(dtype)
    ours = [guarded(z, offset) for z in (x, y)]
    actual = case.moments(*(one.tensor for one in ours))
    assert_layer_moments(actual, case.expected(x, y), bias=True)
    for one in ours:
        one.assert_outside_untouched()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(backend: str, value: float) -> None:
    """In its sample and its channel."""
    case = Case(4, (3, 5), (6, 6), (3, 3), padding=(1, 1))
    x, y = case.tensors()
    x[2, 1, 3, 3] = value
    actual = case.moments(x, y)
    assert torch.equal(~actual.sq_norms.isfinite(), torch.arange(4) == 2)
    for weights in (actual.weight_grad, actual.weight_variance):
        finite = weights.isfinite()
        assert not finite[:, 1].any()
        assert finite[:, [0, 2]].all()


@pytest.mark.parametrize("name", SOME)
def test_identities(backend: str, name: str) -> None:
    """Products add up to the gradient's norm, sums of squares to the norms."""
    case = CASES[name]
    x, y = case.tensors()
    b, moments = case.samples, case.moments(x, y)
    grads = torch.cat([moments.weight_grad.flatten(), moments.bias_grad]).double()
    spread = torch.cat([moments.weight_variance.flatten(), moments.bias_variance]).double()
    torch.testing.assert_close(
        moments.inner_products.sum(), grads.square().sum(), rtol=1e-5, atol=0
    )
    squares = (b - 1) * spread + grads.square() / b
    torch.testing.assert_close(squares.sum(), moments.sq_norms.sum(), rtol=1e-5, atol=0)


def test_the_gradient_is_autograds(backend: str) -> None:
    layer = torch.nn.Conv2d(6, 8, (3, 5), stride=2, padding=(1, 2), dilation=(2, 1), groups=2)
    x = torch.randn(7, 6, 13, 12)
    out = layer(x)
    y = torch.randn_like(out)
    out.backward(y)
    moments = conv_moments(x, y, (3, 5), stride=2, padding=(1, 2), dilation=(2, 1), groups=2)
    torch.testing.assert_close(moments.weight_grad, layer.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments.bias_grad, layer.bias.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LARGE)
def test_bits_do_not_depend_on_threads(isa: str, name: str) -> None:
    case = LARGE[name]
    x, y = case.tensors()
    before = torch.get_num_threads()
    try:
        for inner_products in (False, True):
            results = []
            for threads in (1, 2, 3, 2):
                torch.set_num_threads(threads)
                moments = case.moments(x, y, inner_products=inner_products)
                results.append([part for part in moments if part is not None])
            for others in results[1:]:
                for one, other in zip(results[0], others, strict=True):
                    assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)
