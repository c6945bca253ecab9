"""`adagrad_norm_step_` with one accumulator and with one per row, beside eager torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import adagrad_norm_step_

LR = 0.01
SHAPES = {"large": [(4096, 8192)], "small": [(25, 40)] * 300}


def kernel(params: list[Tensor], grads: list[Tensor], sums: Tensor | list[Tensor]) -> None:
    adagrad_norm_step_(params, grads, sums, lr=LR)


def eager(params: list[Tensor], grads: list[Tensor], sums: Tensor | list[Tensor]) -> None:
    """The norm in float32, as a user would write it."""
    if isinstance(sums, Tensor):
        norms = torch._foreach_norm(grads)
        sums += torch.stack(norms).square().sum().double()
        scale = (LR / (sums.sqrt() + 1e-10)).float()
        torch._foreach_sub_(params, torch._foreach_mul(grads, scale))
        return
    for param, grad, total in zip(params, grads, sums, strict=True):
        total += grad.square().sum(1).double()
        param.addcmul_(grad, (LR / (total.sqrt() + 1e-10)).float()[:, None], value=-1)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("accumulators", ["one", "rows"])
@pytest.mark.parametrize("contender", [kernel, eager])
def test_step(
    run: Callable, small: bool, shapes: str, accumulators: str, contender: Callable
) -> None:
    chosen = [(25, 40)] * 10 if small else SHAPES[shapes]
    params, grads = ([torch.randn(shape) for shape in chosen] for _ in range(2))
    one = torch.ones((), dtype=torch.float64)
    sums = one if accumulators == "one" else [torch.ones(n, dtype=torch.float64) for n, _ in chosen]
    _assert_steps(contender, params, grads, sums)
    moved = 5 * sum(p.nbytes for p in params)
    group = f"adagrad_norm_step {shapes} {accumulators}"
    run(group, contender, params, grads, sums, bytes_moved=moved)


def _assert_steps(
    contender: Callable, params: list[Tensor], grads: list[Tensor], sums: Tensor | list[Tensor]
) -> None:
    def copies() -> tuple[list[Tensor], Tensor | list[Tensor]]:
        total = sums.clone() if isinstance(sums, Tensor) else [s.clone() for s in sums]
        return [p.clone() for p in params], total

    ours, theirs = copies(), copies()
    contender(ours[0], grads, ours[1])
    with use_backend("reference"):
        kernel(theirs[0], grads, theirs[1])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-4, atol=0)
