"""AdagradNorm's accumulators: shares that add up, and checkpoints that swap with AdaGrad's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from paper_norm import accumulator_of, params_of
from torch.nn import Parameter
from trajectories import SHAPES, assert_same, copies, parameters, set_gradients

from adadagrad_kernels.optim import Adagrad, AdagradNorm


def test_state_is_float64_per_parameter_and_adds_up() -> None:
    scalar = AdagradNorm(parameters(dtype=torch.float16), initial_accumulator_value=3.0)
    assert accumulator_of(scalar) == pytest.approx(3.0, rel=1e-15)
    rows = AdagradNorm(parameters(dtype=torch.float16), row_wise=True)
    for shape, one, many in zip(SHAPES, scalar.state.values(), rows.state.values(), strict=True):
        assert one["sum"].shape == ()
        assert many["sum"].shape == (shape[0] if shape else 1,)
        assert one["sum"].dtype == many["sum"].dtype == torch.float64
        assert one["step"].dtype == many["step"].dtype == torch.float32
        assert (many["sum"] == 1e-2).all()


def test_a_parameter_that_joins_later_finds_the_accumulator_grown() -> None:
    first, second = parameters([(3,), (4,)])
    optimizer = AdagradNorm([first])
    set_gradients([first])
    optimizer.step()
    v = accumulator_of(optimizer)
    optimizer.add_param_group({"params": [second], "lr": 0.5})
    before = second.detach().clone()
    second.grad = torch.tensor([1.0, 0.0, -2.0, 2.0])
    first.grad = None
    optimizer.step()
    assert accumulator_of(optimizer) == pytest.approx(v + 9, rel=1e-12)
    torch.testing.assert_close(
        before - second.detach(), 0.5 * second.grad / (v + 9) ** 0.5, rtol=1e-6, atol=1e-7
    )


def test_a_share_leaves_with_its_parameter_and_the_rest_remains() -> None:
    params = parameters([(3,), (5,)])
    optimizer = AdagradNorm(params)
    for _ in range(3):
        set_gradients(params)
        optimizer.step()
    v, share = accumulator_of(optimizer), optimizer.state[params[1]]["sum"].item()
    other = AdagradNorm(copies(params[:1]))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["params"].pop()
    del saved["state"][1]
    other.load_state_dict(saved)
    assert accumulator_of(other) == pytest.approx(v - share, rel=1e-12)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("source", [Adagrad, torch.optim.Adagrad])
def test_loads_an_adagrad_state(source: Any, row_wise: bool, dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    reference = source(params, lr=0.25, initial_accumulator_value=0.5)
    for _ in range(3):
        set_gradients(params)
        reference.step()
    ours = AdagradNorm(copies(params), row_wise=row_wise)
    ours.load_state_dict(copy.deepcopy(reference.state_dict()))
    assert ours.param_groups[0]["lr"] == 0.25
    assert "lr_decay" not in ours.param_groups[0]
    for state, theirs in zip(ours.state.values(), reference.state.values(), strict=True):
        exact = theirs["sum"].double()
        rows = len(exact) if exact.dim() else 1
        expected = [exact[r].sum() if exact.dim() else exact for r in range(rows)]
        if row_wise:
            assert state["sum"].tolist() == pytest.approx([float(e) for e in expected], rel=1e-12)
        else:
            assert state["sum"].item() == pytest.approx(float(sum(expected)), rel=1e-12)
        assert state["step"].item() == 3
    set_gradients(params_of(ours))
    v = accumulator_of(ours) if not row_wise else None
    ours.step()
    if v is not None:
        assert accumulator_of(ours) == pytest.approx(v + ours.grad_sq_norm.item(), rel=1e-6)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("target", [Adagrad, torch.optim.Adagrad])
def test_exports_to_adagrad_and_comes_back(target: Any, row_wise: bool, dtype: torch.dtype) -> None:
    params = [*parameters(dtype=dtype), Parameter(torch.randn(2, 2, dtype=torch.complex64))]
    ours = AdagradNorm(params, row_wise=row_wise, lr=0.5)
    for _ in range(3):
        set_gradients(params)
        ours.step()
    theirs = target(copies(params))
    theirs.load_state_dict(copy.deepcopy(ours.adagrad_state_dict()))
    for param, state in zip(params, theirs.state.values(), strict=True):
        assert state["sum"].shape == param.shape
        assert state["sum"].dtype == param.dtype
        assert state["step"].item() == 3
    back = AdagradNorm(copies(params), row_wise=row_wise)
    back.load_state_dict(copy.deepcopy(theirs.state_dict()))
    epsilon = torch.finfo(dtype).eps
    sums = [[state["sum"] for state in o.state.values()] for o in (back, ours)]
    assert_same(*sums, rtol=max(epsilon, 1e-6), atol=0, what="sum")
    assert all(state["sum"].shape in ((), (2,)) or row_wise for state in ours.state.values())
    set_gradients(params_of(theirs))
    theirs.step()


def test_lr_decay_of_an_adagrad_state_is_refused() -> None:
    params = parameters([(3,)])
    ours = AdagradNorm(params)
    before = copy.deepcopy(ours.state_dict())
    with pytest.raises(ValueError, match="learning-rate scheduler"):
        ours.load_state_dict(torch.optim.Adagrad(copies(params), lr_decay=0.1).state_dict())
    assert ours.state_dict()["param_groups"] == before["param_groups"]


def test_a_state_of_another_shape_is_refused() -> None:
    ours = AdagradNorm(parameters([(3, 2)]))
    before = ours.state_dict()["state"][0]["sum"].clone()
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        ours.load_state_dict(torch.optim.Adagrad(parameters([(5,)])).state_dict())
    assert torch.equal(ours.state_dict()["state"][0]["sum"], before)
