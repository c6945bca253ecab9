"""`batch_adagrad_step_` beside the two ops one after the other, and eager torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import adagrad_step_, batch_adagrad_step_, batch_moments
from benchmarks.ops import peers

LR = 0.01


def fused(param: Tensor, state_sum: Tensor, grads: Tensor) -> None:
    batch_adagrad_step_(param, state_sum, grads, lr=LR)


def one_after_the_other(param: Tensor, state_sum: Tensor, grads: Tensor) -> None:
    adagrad_step_([param], [batch_moments(grads).mean], [state_sum], lr=LR)


def eager(param: Tensor, state_sum: Tensor, grads: Tensor) -> None:
    peers.step(param, state_sum, peers.blocked(grads)[0], LR)


@pytest.mark.parametrize("rows", [8, 64, 512, 4096])
@pytest.mark.parametrize("contender", [fused, one_after_the_other, eager])
def test_step(run: Callable, grads_bytes: int, rows: int, contender: Callable) -> None:
    grads = torch.rand(rows, grads_bytes // 4 // rows - 3).sub_(0.4)
    features = grads.shape[1]
    start = torch.randn(features), torch.rand(features) + 0.1
    _assert_steps(contender, grads, *start)
    bytes_moved = grads.nbytes + 4 * start[0].nbytes
    run(f"batch_adagrad_step {rows} rows", contender, *start, grads, bytes_moved=bytes_moved)


def _assert_steps(contender: Callable, grads: Tensor, param: Tensor, state_sum: Tensor) -> None:
    ours, theirs = [param.clone(), state_sum.clone()], [param.clone(), state_sum.clone()]
    contender(*ours, grads)
    with use_backend("reference"):
        batch_adagrad_step_(*theirs, grads, lr=LR)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
