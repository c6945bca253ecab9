"""`adagrad_step_` beside torch's own optimizer: one large tensor, and many small ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adadagrad_kernels.ops import adagrad_step_

LR = 0.01
SHAPES = {"large": [1 << 25], "small": [1000] * 300, "mixed": [100, 3000, 1 << 20] * 10}


def _tensors(sizes: list[int], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    return [torch.randn(n).to(dtype) for n in sizes], [torch.randn(n).to(dtype) for n in sizes]


@pytest.fixture
def sizes(small: bool, request: pytest.FixtureRequest) -> list[int]:
    """Elements of each tensor."""
    full: list[int] = SHAPES[request.param]
    return [min(n, 1000) for n in full[:10]] if small else full


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", SHAPES, indirect=True)
def test_kernel(run: Callable, sizes: list[int], dtype: torch.dtype) -> None:
    params, grads = _tensors(sizes, dtype)
    sums = [torch.ones_like(p) for p in params]
    if dtype == torch.float32:
        _assert_follows_torch(params, grads, sums)

    def step(params: list[Tensor], grads: list[Tensor], sums: list[Tensor]) -> None:
        adagrad_step_(params, grads, sums, lr=LR)

    moved = 5 * sum(p.nbytes for p in params)
    run(f"adagrad_step {_name(sizes)} {dtype}", step, params, grads, sums, bytes_moved=moved)


@pytest.mark.parametrize("kind", ["fused", "foreach", "loop"])
@pytest.mark.parametrize("sizes", SHAPES, indirect=True)
def test_torch(run: Callable, sizes: list[int], kind: str) -> None:
    params, grads = _tensors(sizes, torch.float32)
    optimizer = _torch_adagrad(params, grads, fused=kind == "fused", foreach=kind == "foreach")
    moved = 5 * sum(p.nbytes for p in params)
    group = f"adagrad_step {_name(sizes)} torch.float32"
    run(group, lambda _: optimizer.step(), params, bytes_moved=moved)


def _torch_adagrad(params: list[Tensor], grads: list[Tensor], **kind: bool) -> torch.optim.Adagrad:
    parameters = [torch.nn.Parameter(p) for p in params]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    return torch.optim.Adagrad(parameters, lr=LR, initial_accumulator_value=1.0, **kind)


def _assert_follows_torch(params: list[Tensor], grads: list[Tensor], sums: list[Tensor]) -> None:
    theirs = [p.clone() for p in params]
    _torch_adagrad(theirs, grads, fused=True).step()
    adagrad_step_(params, grads, sums, lr=LR)
    torch.testing.assert_close(params, theirs, rtol=1e-5, atol=1e-6)


def _name(sizes: list[int]) -> str:
    return f"{len(sizes)} tensors of {max(sizes):,}"
