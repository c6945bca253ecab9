"""`linear_moments` beside torch's plain weight gradient and eager ways to the norms."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import LayerMoments, linear_moments
from benchmarks.ops import layer_peers

# Samples, positions, inputs, outputs: layers of a small GPT, and of an MLP.
SHAPES = {
    "attention": (32, 128, 256, 256),
    "widening": (32, 128, 256, 1024),
    "narrowing": (32, 128, 1024, 256),
    "few positions": (128, 16, 512, 512),
    "mlp": (512, 1, 784, 2048),
}
ASKED = {"norms": (False, False), "variance": (True, False), "products": (False, True),
         "all": (True, True)}  # fmt: skip


@cache
def tensors(layer: str, small: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    samples, positions, inputs, outputs = SHAPES[layer]
    if small:
        samples, positions, inputs, outputs = 3, min(positions, 5), inputs // 16, outputs // 16
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, positions, inputs, generator=generator)
    y = torch.randn(samples, positions, outputs, generator=generator)
    return x.to(dtype), y.to(dtype)


@cache
def expected(layer: str, small: bool, dtype: torch.dtype) -> LayerMoments:
    x, y = tensors(layer, small, dtype)
    with use_backend("reference"):
        parts = [linear_moments(*pair) for pair in zip(x.split(16), y.split(16), strict=True)]
    return parts[0]._replace(
        weight_grad=torch.stack([part.weight_grad for part in parts]).sum(0),
        sq_norms=torch.cat([part.sq_norms for part in parts]),
    )


def assert_same(gradient: Tensor, norms: Tensor | None, wanted: LayerMoments, bias: float) -> None:
    scale = float(wanted.weight_grad.abs().max())
    torch.testing.assert_close(gradient.float(), wanted.weight_grad, rtol=1e-3, atol=1e-4 * scale)
    if norms is not None:
        off = float((norms.double() / wanted.sq_norms - 1).abs().max())
        assert off < 1e-3 + bias, off


def moved(x: Tensor, y: Tensor) -> int:
    return x.nbytes + y.nbytes + 4 * x.shape[2] * y.shape[2]


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("asked", ASKED)
def test_kernel(run: Callable, small: bool, layer: str, asked: str) -> None:
    x, y = tensors(layer, small, torch.float32)
    variance, products = ASKED[asked]

    def ours(inputs: Tensor, grads: Tensor) -> LayerMoments:
        return linear_moments(inputs, grads, variance=variance, inner_products=products)

    moments = run(f"linear_moments {layer}", ours, x, y, bytes_moved=moved(x, y))
    assert_same(moments.weight_grad, moments.sq_norms, expected(layer, small, torch.float32), 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_kernel_in_other_dtypes(run: Callable, small: bool, dtype: torch.dtype) -> None:
    x, y = tensors("attention", small, dtype)
    moments = run("linear_moments by dtype", linear_moments, x, y, bytes_moved=moved(x, y))
    wanted = expected("attention", small, dtype)
    assert_same(moments.weight_grad.to(wanted.weight_grad.dtype).float(), moments.sq_norms,
                wanted._replace(weight_grad=wanted.weight_grad.float()), 0)  # fmt: skip


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("way", ["plain_linear", "by_samples", "by_pairs"])
def test_eager(run: Callable, small: bool, layer: str, way: str) -> None:
    if way == "by_samples" and layer == "mlp" and not small:
        pytest.skip("every sample's gradient takes 3 GB")
    x, y = tensors(layer, small, torch.float32)
    results = run(f"linear_moments {layer}", getattr(layer_peers, way), x, y,
                  bytes_moved=moved(x, y))  # fmt: skip
    gradient, norms = (results, None) if way == "plain_linear" else results[:2]
    # These norms leave out the bias, which adds the square of the sum of y.
    bias = y.double().sum(1).square().sum(1)
    norms = None if norms is None else norms.double() + bias
    assert_same(gradient, norms, expected(layer, small, torch.float32), 0)
