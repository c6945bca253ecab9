"""Adagrad against torch.optim.Adagrad on torch's own optimizer inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import Parameter
from trajectories import copies, follow, parameters, set_gradients

from adadagrad_kernels import use_backend
from adadagrad_kernels.optim import Adagrad
from adadagrad_kernels.optim import adagrad as adagrad_module

pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

INFO = next(info for info in optim_db if info.optim_cls is torch.optim.Adagrad)
INPUTS = INFO.optim_inputs_func(device="cpu")
ERRORS = INFO.optim_error_inputs_func(device="cpu", dtype=torch.float32)
FLAGS: tuple[dict[str, Any], ...] = ({}, {"foreach": True}, {"fused": True})


def _name(given: Any) -> str | None:
    if isinstance(given, torch.dtype):
        return str(given).removeprefix("torch.")
    if isinstance(given, dict):
        return next(iter(given), "plain")
    return getattr(given, "desc", None)


@pytest.mark.parametrize("name", ["auto", "reference"])
@pytest.mark.parametrize("given", INPUTS, ids=_name)
def test_follows_torch_step_by_step(given: Any, dtype: torch.dtype, name: str) -> None:
    rate = float(given.kwargs.get("lr", 1e-2))
    ours = parameters(dtype=dtype, size=rate)
    theirs = copies(ours)
    with use_backend(name):
        follow(
            Adagrad(ours, **given.kwargs),
            torch.optim.Adagrad(theirs, **given.kwargs, foreach=False),
            steps=5,
        )


@pytest.mark.parametrize("flags", FLAGS, ids=_name)
@pytest.mark.parametrize("given", INPUTS, ids=_name)
def test_flags_change_nothing_but_the_counters_dtype(given: Any, flags: dict[str, Any]) -> None:
    ours = parameters()
    theirs = copies(ours)
    kwargs = {**given.kwargs, **flags}
    follow(Adagrad(ours, **kwargs), torch.optim.Adagrad(theirs, **kwargs), steps=4)


@pytest.mark.parametrize("given", ERRORS, ids=lambda e: e.optimizer_error_input.desc)
def test_errors_are_torchs(given: Any) -> None:
    assert given.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR
    case = given.optimizer_error_input
    params = [Parameter(torch.zeros(1))] if case.params is None else case.params
    expectation = pytest.warns if issubclass(given.error_type, Warning) else pytest.raises
    with expectation(given.error_type, match=given.error_regex):
        Adagrad(params, **case.kwargs)


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"lr": -1.0}, ValueError),
        ({"lr": float("nan")}, ValueError),
        ({"weight_decay": -1.0}, ValueError),
        ({"initial_accumulator_value": -1.0}, ValueError),
        ({"eps": -1.0}, ValueError),
        ({"fused": True, "foreach": True}, RuntimeError),
        ({"fused": True, "differentiable": True}, RuntimeError),
    ],
)
def test_refuses_what_torch_refuses(kwargs: dict[str, Any], error: type[Exception]) -> None:
    for optimizer in (Adagrad, torch.optim.Adagrad):
        with pytest.raises(error):
            optimizer([Parameter(torch.zeros(1))], **kwargs)


@pytest.mark.parametrize("place", ["argument", "group"])
def test_differentiable_is_refused_with_the_way_out(place: str) -> None:
    group: dict[str, Any] = {"params": [Parameter(torch.zeros(1))]}
    setting = {"differentiable": True}
    with pytest.raises(RuntimeError, match=r"torch\.optim\.Adagrad\(differentiable=True\)"):
        Adagrad([group | setting]) if place == "group" else Adagrad([group], **setting)


def test_groups_have_settings_of_their_own() -> None:
    ours = parameters([(3,), (4, 2), (5,), ()])
    theirs = copies(ours)

    def groups(params: list[Parameter]) -> list[dict[str, Any]]:
        return [
            {"params": params[:2], "lr": 0.3, "weight_decay": 0.2},
            {"params": params[2:], "eps": 0.5, "maximize": True, "lr_decay": 0.1},
        ]

    follow(
        Adagrad(groups(ours), lr=0.1, initial_accumulator_value=0.3),
        torch.optim.Adagrad(groups(theirs), lr=0.1, initial_accumulator_value=0.3, foreach=False),
        steps=5,
    )


def test_a_group_added_later_joins_with_its_own_count() -> None:
    ours = parameters([(3,), (4, 2)])
    theirs = copies(ours)
    one = Adagrad(ours[:1], lr=0.1, lr_decay=0.5, initial_accumulator_value=0.2)
    other = torch.optim.Adagrad(
        theirs[:1], lr=0.1, lr_decay=0.5, initial_accumulator_value=0.2, foreach=False
    )
    follow(one, other, steps=2)
    for optimizer, params in ((one, ours), (other, theirs)):
        optimizer.add_param_group({"params": params[1:], "lr": 0.2})
    # Torch 2.6 adds the group without a state.
    other.state[theirs[1]].setdefault("step", torch.tensor(0.0))
    other.state[theirs[1]].setdefault("sum", torch.full_like(theirs[1], 0.2))
    follow(one, other, steps=3)
    assert [state["step"].item() for state in one.state.values()] == [5, 3]


def test_named_parameters_keep_their_names() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = Adagrad(model.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]
    model(torch.ones(1, 3)).sum().backward()
    before = model.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(before - model.weight.detach(), torch.full((2, 3), 0.01))


def test_mixed_dtypes_take_one_call_each(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [*parameters([(3,), (2, 2)]), *parameters([(4,)], torch.float64)]
    calls: list[int] = []

    def counted(params: list[Parameter], *rest: Any) -> torch.Tensor:
        calls.append(len(params))
        return original(params, *rest)

    original = adagrad_module.take_step
    monkeypatch.setattr(adagrad_module, "take_step", counted)
    follow(Adagrad(ours), torch.optim.Adagrad(copies(ours), foreach=False), steps=2)
    assert calls == [2, 1, 2, 1]


def test_grad_sq_norm_is_of_the_last_step_and_read_only() -> None:
    params = parameters([(3,), (4, 2)])
    optimizer = Adagrad(params, weight_decay=0.5, maximize=True)
    assert optimizer.grad_sq_norm is None
    for _ in range(2):
        set_gradients(params)
        optimizer.step()
    expected = sum(param.grad.double().square().sum() for param in params)
    assert optimizer.grad_sq_norm is not None
    assert optimizer.grad_sq_norm.dtype == torch.float64
    torch.testing.assert_close(optimizer.grad_sq_norm, expected, rtol=1e-6, atol=0)
    with pytest.raises(AttributeError):
        optimizer.grad_sq_norm = expected
    optimizer.zero_grad()
    optimizer.step()
    assert optimizer.grad_sq_norm.item() == 0
