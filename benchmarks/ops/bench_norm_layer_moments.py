"""`norm_layer_moments` beside torch's backward of the scale and shift alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import norm_layer_moments

SHAPES = [(32, 128, 256), (64, 512, 1024)]


def _case(shape: tuple[int, int, int], small: bool) -> tuple[Tensor, ...]:
    shape = (4, 8, 64) if small else shape
    x, y = torch.randn(shape), torch.randn(shape)
    weight = torch.ones(shape[2])
    _, mean, rstd = torch.native_layer_norm(x, shape[2:], weight, weight, 1e-5)
    return x, y, mean, rstd, weight


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("asked", ["norms", "all"])
def test_kernel(run: Callable, small: bool, shape: tuple[int, int, int], asked: str) -> None:
    case = _case(shape, small)[:4]
    also = {"variance": asked == "all", "inner_products": asked == "all"}

    def ours(*arguments: Tensor) -> tuple[Tensor | None, ...]:
        return norm_layer_moments(*arguments, **also)

    actual = run(f"norm_layer_moments {shape}", ours, *case, bytes_moved=2 * case[0].nbytes)
    with use_backend("reference"):
        wanted = ours(*case)
    for one, other in zip(actual, wanted, strict=True):
        if one is not None:
            scale = float(other.abs().max())
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch(run: Callable, small: bool, shape: tuple[int, int, int]) -> None:
    x, y, mean, rstd, weight = _case(shape, small)

    def torchs(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        backward = torch.ops.aten.native_layer_norm_backward
        return backward(y, x, x.shape[2:], mean, rstd, weight, weight, [False, True, True])

    _, scale, shift = run(f"norm_layer_moments {shape}", torchs, x, y, bytes_moved=2 * x.nbytes)
    with use_backend("reference"):
        wanted = norm_layer_moments(x, y, mean, rstd)
    torch.testing.assert_close(scale, wanted.weight_grad, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(shift, wanted.bias_grad, rtol=1e-3, atol=1e-2)
