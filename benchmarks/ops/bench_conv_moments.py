"""`conv_moments` beside torch's plain weight gradient and every sample's gradient from patches."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import LayerMoments, conv_moments
from benchmarks.ops import layer_peers

# Input and output channels, and size of the image; kernels of 5 x 5: the layers of a CNN for MNIST.
LAYERS = {"first": (1, 16, 28), "second": (16, 32, 14)}
SAMPLES = (64, 512, 4096)
ASKED = {"norms": (False, False), "variance": (True, False), "products": (False, True),
         "all": (True, True)}  # fmt: skip
PADDING = 2


@cache
def tensors(layer: str, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    inputs, outputs, size = LAYERS[layer]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, inputs, size, size, generator=generator)
    y = torch.randn(samples, outputs, size, size, generator=generator)
    return x, y, torch.empty(outputs, inputs, 5, 5)


@cache
def expected(layer: str, samples: int) -> LayerMoments:
    x, y, _ = tensors(layer, samples)
    with use_backend("reference"):
        parts = [
            conv_moments(*pair, (5, 5), padding=PADDING)
            for pair in zip(x.split(64), y.split(64), strict=True)
        ]
    return parts[0]._replace(
        weight_grad=torch.stack([part.weight_grad for part in parts]).sum(0),
        sq_norms=torch.cat([part.sq_norms for part in parts]),
    )


def assert_same(gradient: Tensor, norms: Tensor | None, wanted: LayerMoments) -> None:
    scale = float(wanted.weight_grad.abs().max())
    torch.testing.assert_close(gradient, wanted.weight_grad, rtol=1e-3, atol=1e-4 * scale)
    if norms is not None:
        torch.testing.assert_close(norms.double(), wanted.sq_norms, rtol=1e-3, atol=0)


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("asked", ASKED)
def test_kernel(run: Callable, small: bool, layer: str, samples: int, asked: str) -> None:
    count = 3 if small else samples
    x, y, _ = tensors(layer, count)
    variance, products = ASKED[asked]

    def ours(inputs: Tensor, grads: Tensor) -> LayerMoments:
        return conv_moments(inputs, grads, (5, 5), padding=PADDING, variance=variance,
                            inner_products=products)  # fmt: skip

    moments = run(f"conv_moments {layer} {samples}", ours, x, y, bytes_moved=x.nbytes + y.nbytes)
    assert_same(moments.weight_grad, moments.sq_norms, expected(layer, count))


@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("way", ["plain_conv", "conv_by_samples"])
def test_eager(run: Callable, small: bool, layer: str, samples: int, way: str) -> None:
    if way == "conv_by_samples" and samples > 512 and not small:
        pytest.skip("the patches take gigabytes")
    count = 3 if small else samples
    x, y, weight = tensors(layer, count)
    results = run(f"conv_moments {layer} {samples}", getattr(layer_peers, way), x, y, weight,
                  PADDING, bytes_moved=x.nbytes + y.nbytes)  # fmt: skip
    gradient, norms = (results, None) if way == "plain_conv" else results[:2]
    bias = y.double().sum((2, 3)).square().sum(1)
    norms = None if norms is None else norms.double() + bias
    assert_same(gradient, norms, expected(layer, count))
