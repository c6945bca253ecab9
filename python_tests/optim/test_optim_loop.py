"""The optimizers in a training loop: closures, hooks, schedulers, loss scaling, torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler
from trajectories import assert_same, assert_same_state, copies, follow, parameters, set_gradients

from adadagrad_kernels.optim import Adagrad, AdagradNorm

BOTH = pytest.mark.parametrize("optimizer_class", [Adagrad, AdagradNorm])
OptimizerClass = Callable[..., Any]


@BOTH
def test_closure_runs_once_with_gradients_enabled(optimizer_class: OptimizerClass) -> None:
    weight = Parameter(torch.tensor([2.0]))
    optimizer = optimizer_class([weight], lr=0.1)
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (weight * weight).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
        assert not torch.is_grad_enabled()
    assert loss.item() == 4
    assert calls == [True]
    assert weight.item() < 2
    assert optimizer.step() is None


@BOTH
def test_hooks_fire_in_order(optimizer_class: OptimizerClass) -> None:
    weight = Parameter(torch.tensor([2.0]))
    weight.grad = torch.ones(1)
    optimizer = optimizer_class([weight], lr=0.1)
    seen: list[tuple[str, bool]] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(("pre", weight.item() == 2)))
    optimizer.register_step_post_hook(lambda *_: seen.append(("post", weight.item() == 2)))
    optimizer.step()
    assert seen == [("pre", True), ("post", False)]
    assert optimizer_class.step.hooked


@BOTH
@pytest.mark.parametrize(
    "scheduled",
    [
        lambda optimizer: lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5),
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.3, total_steps=10, cycle_momentum=False
        ),
        lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5),
    ],
    ids=["StepLR", "OneCycleLR", "ReduceLROnPlateau"],
)
@pytest.mark.parametrize("tensor_rate", [False, True])
def test_schedulers_set_the_rate_of_the_next_step(
    optimizer_class: OptimizerClass, scheduled: Callable[..., Any], tensor_rate: bool
) -> None:
    """Each step is lr times the direction, which the state tells."""
    weight = Parameter(torch.ones(4))
    optimizer = optimizer_class([weight], lr=torch.tensor(0.2) if tensor_rate else 0.2)
    scheduler = scheduled(optimizer)
    rates = set()
    for _ in range(6):
        before = weight.detach().clone()
        weight.grad = torch.tensor([1.0, 2.0, -1.0, 0.5])
        rate = float(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scale = optimizer.state[weight]["sum"].sqrt() + 1e-10
        moved = (before - weight.detach()).double() * scale / weight.grad
        torch.testing.assert_close(moved, torch.full_like(moved, rate), rtol=1e-5, atol=0)
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        scheduler.step(1.0) if plateau else scheduler.step()
        rates.add(round(rate, 6))
    assert len(rates) >= 3


def _scaled_steps(
    optimizer: Any, params: list[Parameter], infinite: tuple[int, ...], clip: bool = False
) -> list[float]:
    """Steps through GradScaler, with an overflow in those numbered; the scales afterwards."""
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
    scales = []
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        optimizer.zero_grad()
        loss = sum((p * torch.randn(p.shape, generator=generator)).sum() for p in params)
        scaler.scale(loss * (float("inf") if step in infinite else 1.0)).backward()
        if clip:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    return scales


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("clip", [False, True])
def test_loss_scaling_as_torch_does_it(fused: bool, clip: bool) -> None:
    ours = parameters([(3,), (2, 4)])
    theirs = copies(ours)
    one = Adagrad(ours, lr=0.1, fused=fused, weight_decay=0.1)
    other = torch.optim.Adagrad(theirs, lr=0.1, fused=fused, weight_decay=0.1)
    assert getattr(one, "_step_supports_amp_scaling", False) == fused
    assert _scaled_steps(one, ours, (1, 3), clip) == _scaled_steps(other, theirs, (1, 3), clip)
    assert_same(ours, theirs, rtol=1e-6, atol=1e-7)
    assert_same_state(one, other, rtol=1e-6)
    assert [state["step"].item() for state in one.state.values()] == [3, 3]


def test_loss_scaling_of_the_norm() -> None:
    plain = parameters([(3,), (2, 4)])
    fused = copies(plain)
    optimizers = [AdagradNorm(plain), AdagradNorm(fused, fused=True)]
    for optimizer, params in zip(optimizers, (plain, fused), strict=True):
        _scaled_steps(optimizer, params, (1, 3))
    assert_same(fused, plain, rtol=1e-6, atol=1e-7)
    norms = [optimizer.grad_sq_norm for optimizer in optimizers]
    torch.testing.assert_close(norms[0], norms[1])
    assert [state["step"].item() for state in optimizers[1].state.values()] == [3, 3]


@BOTH
def test_an_overflow_leaves_everything(optimizer_class: OptimizerClass) -> None:
    weight = Parameter(torch.ones(3))
    optimizer = optimizer_class([weight], fused=True)
    before = optimizer.state[weight]["sum"].clone()
    weight.grad = torch.full((3,), float("inf"))
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(2.0), torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight, torch.ones(3))
    assert torch.equal(optimizer.state[weight]["sum"], before)
    assert optimizer.state[weight]["step"].item() == 0
    assert optimizer.grad_sq_norm is None


@BOTH
def test_a_step_of_rate_zero_without_gradient_moves_nothing(optimizer_class: Any) -> None:
    """What torch.distributed.checkpoint does to make optimizers create their state."""
    params = parameters()
    before = copies(params)
    optimizer = optimizer_class(params)
    sums = [optimizer.state[param]["sum"].clone() for param in params]
    for param in params:
        param.grad = torch.zeros_like(param)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert_same(params, before, rtol=0, atol=0)
    assert_same([optimizer.state[param]["sum"] for param in params], sums, rtol=0, atol=0)


@BOTH
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_compiled_training_step(optimizer_class: OptimizerClass) -> None:
    models = [torch.nn.Linear(4, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [optimizer_class(model.parameters(), lr=0.1) for model in models]
    compiled = torch.compile(optimizers[0].step, backend="eager")
    for _ in range(3):
        set_gradients(*[list(model.parameters()) for model in models])
        compiled()
        optimizers[1].step()
    assert_same(models[0].parameters(), models[1].parameters(), rtol=0, atol=0)
    assert torch.equal(optimizers[0].grad_sq_norm, optimizers[1].grad_sq_norm)
    assert optimizers[0].state[models[0].weight]["step"].item() == 3


@BOTH
def test_state_changed_behind_the_optimizers_back_is_noticed(optimizer_class: Any) -> None:
    """Cleared states, replaced tensors and groups, as resets and pruning do."""
    params = parameters([(3,), (2, 2)])
    optimizer = optimizer_class(params)

    def step() -> list[float]:
        set_gradients(params)
        optimizer.step()
        return [optimizer.state[param]["step"].item() for param in optimizer.state]

    assert step() == [1, 1]
    optimizer.state.clear()
    assert step() == [1, 1]
    optimizer.state[params[0]]["step"] = torch.tensor(7.0)
    assert step() == [8, 2]
    optimizer.state[params[1]]["step"].fill_(20.0)
    assert step() == [9, 21]
    optimizer.state[params[1]] = {
        "step": torch.tensor(30.0),
        "sum": torch.zeros_like(optimizer.state[params[1]]["sum"]),
    }
    assert step() == [10, 31]
    replaced = torch.full_like(optimizer.state[params[0]]["sum"], 5.0)
    optimizer.state[params[0]]["sum"] = replaced
    assert step() == [11, 32]
    assert (optimizer.state[params[0]]["sum"] > 5).all()
    optimizer.param_groups[0]["params"].pop()
    before = params[1].detach().clone()
    step()
    assert torch.equal(params[1], before)


def test_training_follows_torch_when_gradients_depend_on_the_parameters() -> None:
    inputs, targets = torch.randn(64, 8), torch.randn(64, 1)
    models = [torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))]
    models.append(
        torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    )
    models[1].load_state_dict(models[0].state_dict())

    def backward(*_: Any) -> None:
        for model in models:
            model.zero_grad()
            (model(inputs) - targets).square().mean().backward()

    ours, theirs = (
        cls(model.parameters(), lr=0.1)
        for cls, model in zip((Adagrad, torch.optim.Adagrad), models, strict=True)
    )
    follow(ours, theirs, steps=10, gradients=backward, tolerance=200)
