"""Numbers of a step that make no sense are refused before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from adadagrad_kernels import ops

NAN, INF = float("nan"), float("inf")


def tensors() -> list[Tensor]:
    """A parameter, its gradients or gradient, and an accumulator, none of them zero."""
    return [torch.full((3,), 2.0), torch.ones(4, 3), torch.full((3,), 5.0)]


def adagrad(param: Tensor, grads: Tensor, state: Tensor, **numbers: Any) -> None:
    ops.adagrad_step_([param], [grads[0]], [state], **numbers)


def adagrad_norm(param: Tensor, grads: Tensor, state: Tensor, **numbers: Any) -> None:
    accumulator = state[:1].double()
    ops.adagrad_norm_step_([param], [grads[0]], accumulator, **numbers)
    state[:1] = accumulator


def batch(param: Tensor, grads: Tensor, state: Tensor, **numbers: Any) -> None:
    ops.batch_adagrad_step_(param, state, grads, **numbers)


def sparse(param: Tensor, grads: Tensor, state: Tensor, **numbers: Any) -> None:
    ops.sparse_mean_step_(param, grads, state_sum=state, **numbers)


Step = Callable[..., None]
ALL: Sequence[Step] = (adagrad, adagrad_norm, batch, sparse)
DENSE: Sequence[Step] = (adagrad, adagrad_norm, batch)
SCALED: Sequence[Step] = (adagrad, adagrad_norm)

CASES: list[tuple[Step, str, float]] = [
    *((step, "lr", value) for step in ALL for value in (NAN, INF, -INF)),
    *((step, "lr", -1.0) for step in DENSE),
    *((step, "eps", value) for step in ALL for value in (NAN, -1e-10)),
    *((step, "weight_decay", value) for step in DENSE for value in (NAN, INF, -0.1)),
    *((sparse, "ridge", value) for value in (NAN, -0.1)),
    *((step, "grad_scale", value) for step in SCALED for value in (0.0, -1.0, NAN, INF)),
]


@pytest.mark.parametrize(("step", "name", "value"), CASES)
def test_numbers_out_of_range_are_refused(step: Step, name: str, value: float) -> None:
    given = tensors()
    accepted = "above 0" if name == "grad_scale" else "of 0 or more"
    with pytest.raises(ValueError, match=rf"^{name} is .*; accepted is a finite number {accepted}"):
        step(*given, **{"lr": 0.1, name: value})
    assert all(map(torch.equal, given, tensors()))


@pytest.mark.parametrize("step", ALL)
def test_the_smallest_numbers_are_accepted(step: Step) -> None:
    given = tensors()
    step(*given, lr=0.0, eps=0.0)
    param, _, state = given
    assert torch.equal(param, tensors()[0])
    assert (state > tensors()[2]).any()


@pytest.mark.parametrize("step", SCALED)
def test_refused_under_compile_too(step: Step) -> None:
    compiled = torch.compile(step, backend="eager", fullgraph=step is adagrad)
    with pytest.raises(ValueError, match="grad_scale is 0"):
        compiled(*tensors(), lr=0.1, grad_scale=0.0)
