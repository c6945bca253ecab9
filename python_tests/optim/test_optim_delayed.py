"""DelayedAdagradNorm: against a loop of its formula, its state, and refusals."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import Parameter
from trajectories import SHAPES, assert_same, copies, parameters, set_gradients

from adadagrad_kernels.optim import Adagrad, DelayedAdagradNorm


class Loop:
    """The formula on float64 copies, with a Python number for the sum."""

    def __init__(self, params: list[Parameter], **settings: float) -> None:
        self.params = [p.detach().double().clone() for p in params]
        self.settings = {"lr": 1.0, "beta": 1.0, "eps": 0.0, **settings}
        self.total = 0.0

    def step(self, params: list[Parameter]) -> None:
        lr, beta, eps = (self.settings[name] for name in ("lr", "beta", "eps"))
        step_size = lr / (beta + self.total) ** (0.5 + eps)
        for own, param in zip(self.params, params, strict=True):
            if param.grad is not None:
                own -= step_size * param.grad.double()
                self.total += sum(value**2 for value in param.grad.double().flatten().tolist())


@pytest.mark.parametrize("settings", [{}, {"lr": 0.3, "beta": 7.0, "eps": 0.25}], ids=str)
def test_follows_the_formula(settings: dict[str, float], dtype: torch.dtype) -> None:
    params = parameters(dtype=dtype)
    loop, optimizer = Loop(params, **settings), DelayedAdagradNorm(params, **settings)
    epsilon = torch.finfo(dtype).eps
    for step in range(1, 6):
        set_gradients(params)
        optimizer.step()
        loop.step(params)
        bound = 4 * epsilon * step if dtype != torch.float64 else 1e-12
        assert_same([p.detach().double() for p in params], loop.params, rtol=bound, atol=bound)
        total = sum(state["sum"].item() for state in optimizer.state.values())
        assert total == pytest.approx(loop.total, rel=1e-12)
        assert all(state["sum"].dtype == torch.float64 for state in optimizer.state.values())


def test_the_first_step_does_not_know_its_gradient() -> None:
    """As long as lr / sqrt(beta) times the gradient, however large that is."""
    param = Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = DelayedAdagradNorm([param], lr=0.5, beta=4.0)
    param.grad = torch.tensor([300.0, 400.0], dtype=torch.float64)
    optimizer.step()
    assert param.tolist() == [-75.0, -100.0]
    before = param.detach().clone()
    optimizer.step()
    expected = before - 0.5 / math.sqrt(4 + 250_000) * param.grad
    torch.testing.assert_close(param.detach(), expected, rtol=1e-15, atol=0)


def test_groups_have_their_own_settings_and_share_the_sum() -> None:
    first, second = parameters([(3,)], torch.float64), parameters([(2, 2)], torch.float64)
    optimizer = DelayedAdagradNorm([{"params": first, "lr": 0.1}, {"params": second, "beta": 9.0}])
    total = 0.0
    for _ in range(3):
        set_gradients(first + second)
        expected = [
            first[0].detach() - 0.1 / (1 + total) ** 0.5 * first[0].grad,
            second[0].detach() - 1 / (9 + total) ** 0.5 * second[0].grad,
        ]
        optimizer.step()
        assert_same([p.detach() for p in first + second], expected, rtol=1e-13, atol=1e-15)
        total += sum(p.grad.square().sum().item() for p in first + second)


def test_parameters_without_gradient_stay_and_new_ones_join() -> None:
    params = parameters([(3,), (2,)], torch.float64)
    optimizer = DelayedAdagradNorm(params[:1])
    loop = Loop(params)
    set_gradients(params[:1])
    optimizer.step()
    loop.step(params)
    optimizer.add_param_group({"params": params[1:]})
    optimizer.step()
    loop.step(params)
    assert params[1] not in optimizer.state
    set_gradients(params)
    optimizer.step()
    loop.step(params)
    assert_same([p.detach() for p in params], loop.params, rtol=1e-13, atol=1e-15)
    optimizer.zero_grad()
    optimizer.step()
    assert_same([p.detach() for p in params], loop.params, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_run_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    params = parameters(SHAPES, dtype)
    optimizer = DelayedAdagradNorm(params, lr=torch.tensor(0.7))
    for _ in range(3):
        set_gradients(params)
        optimizer.step()
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    others, copied = copies(params), copy.deepcopy((params, optimizer))
    resumed = DelayedAdagradNorm(others)
    resumed.load_state_dict(torch.load(buffer))
    for _ in range(2):
        set_gradients(params, others, copied[0])
        for each in (optimizer, resumed, copied[1]):
            each.step()
        for other in (others, copied[0]):
            assert all(torch.equal(a, b) for a, b in zip(params, other, strict=True))
    sums = [state["sum"] for state in optimizer.state.values()]
    assert [s["sum"] for s in resumed.state.values()] == sums
    assert any(s.item() != s.to(dtype).item() for s in sums)  # float64 was kept


def test_schedulers_and_closures() -> None:
    param = Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = DelayedAdagradNorm([param], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = param.square().sum() / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert param.item() == 0.0  # h = 1
    param.data.fill_(2.0)
    scheduler.step()
    optimizer.step(closure)
    assert param.item() == pytest.approx(2 - 2 * 0.5 / math.sqrt(5))


def test_it_minimises() -> None:
    torch.manual_seed(1)
    inputs, targets = torch.randn(64, 5), torch.randn(64, 1)
    layer = nn.Linear(5, 1)
    optimizer = DelayedAdagradNorm(layer.parameters(), lr=1.0)
    best = torch.linalg.lstsq(torch.cat([inputs, torch.ones(64, 1)], 1), targets).solution
    rest = (torch.cat([inputs, torch.ones(64, 1)], 1) @ best - targets).square().mean()
    for _ in range(300):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(layer(inputs), targets)
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(rest.item(), rel=1e-4)


def test_refusals_move_nothing() -> None:
    for name, value in (("lr", -1.0), ("beta", 0.0), ("beta", math.inf), ("eps", 0.6), ("eps", -1)):
        with pytest.raises(ValueError, match=r"Invalid .*; accepted are"):
            DelayedAdagradNorm(parameters(), **{name: value})
    plain = Parameter(torch.ones(3))
    plain.grad = torch.ones(3)
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    optimizer = DelayedAdagradNorm([plain, *embedding.parameters()])
    with pytest.raises(RuntimeError, match=r"sparse gradient.*shape \(4, 2\).*sparse=False"):
        optimizer.step()
    assert plain.tolist() == [1.0, 1.0, 1.0]
    assert not optimizer.state
    number = Parameter(torch.ones(2, dtype=torch.complex64))
    number.grad = torch.ones_like(number)
    with pytest.raises(RuntimeError, match="complex gradient"):
        DelayedAdagradNorm([number]).step()


def test_the_state_of_another_optimizer_changes_nothing() -> None:
    params = parameters([(3,)])
    optimizer, other = DelayedAdagradNorm(params), Adagrad(copies(params))
    set_gradients(params)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"entries \['step', 'sum'\]; accepted is the state of D"):
        optimizer.load_state_dict(other.state_dict())
    assert optimizer.state_dict() == before
