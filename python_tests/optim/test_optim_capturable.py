"""Adagrad and AdagradNorm with capturable=True: the same steps, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from no_waiting import pretended_cuda
from paper_norm import accumulator_of
from torch.nn import Parameter
from trajectories import assert_same, copies, follow, parameters, set_gradients

from adadagrad_kernels import use_backend
from adadagrad_kernels.optim import Adagrad, AdagradNorm

BOTH = pytest.mark.parametrize("optimizer_class", [Adagrad, AdagradNorm])
SETTINGS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (Adagrad, {}),
    (Adagrad, {"lr_decay": 0.3}),
    (Adagrad, {"weight_decay": 0.2, "maximize": True, "initial_accumulator_value": 0.1}),
    (AdagradNorm, {"weight_decay": 0.2}),
    (AdagradNorm, {"row_wise": True, "maximize": True}),
)
EVERY = pytest.mark.parametrize(("optimizer_class", "kwargs"), SETTINGS, ids=str)


def _pair(optimizer_class: Any, **kwargs: Any) -> tuple[Any, Any, list[list[Parameter]]]:
    """A capturable optimizer of two groups, and an ordinary one."""
    first = parameters()
    models = [first, copies(first)]
    groups = [[{"params": m[:4]}, {"params": m[4:], "eps": 1e-3}] for m in models]
    capturable = optimizer_class(groups[0], capturable=True, **kwargs)
    return capturable, optimizer_class(groups[1], **kwargs), models


def _assert_equal(one: Any, other: Any, models: list[list[Parameter]]) -> None:
    assert_same(*models, rtol=0, atol=0)
    for our, their in zip(one.state.values(), other.state.values(), strict=True):
        assert torch.equal(our["step"], their["step"])
        torch.testing.assert_close(our["sum"], their["sum"], rtol=1e-14, atol=0)
    torch.testing.assert_close(one.grad_sq_norm, other.grad_sq_norm, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["auto", "reference"])
@pytest.mark.parametrize("tensor_rate", [False, True])
@EVERY
def test_steps_are_those_of_an_ordinary_optimizer(
    optimizer_class: Any, kwargs: dict[str, Any], tensor_rate: bool, name: str
) -> None:
    rate = torch.tensor(0.1) if tensor_rate else 0.1
    one, other, models = _pair(optimizer_class, lr=rate, **kwargs)
    with use_backend(name):
        for step, active in enumerate((range(6), range(6), (0, 2, 3), (), (1, 3, 5), range(6))):
            set_gradients(*models)
            for model in models:
                for i, param in enumerate(model):
                    param.grad = param.grad if i in active else None
            for optimizer in (one, other):
                for group in optimizer.param_groups:
                    if tensor_rate:
                        group["lr"].fill_(0.1 + 0.05 * step)
                    else:
                        group["lr"] = 0.1 + 0.05 * step
                optimizer.step()
            _assert_equal(one, other, models)


@pytest.mark.parametrize("kwargs", [{}, {"lr_decay": 0.5}, {"weight_decay": 0.1}], ids=str)
def test_follows_torch(kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    ours = parameters(dtype=dtype, size=0.1)
    theirs = copies(ours)
    follow(
        Adagrad(ours, lr=0.1, capturable=True, **kwargs),
        torch.optim.Adagrad(theirs, lr=0.1, foreach=False, **kwargs),
        steps=4,
    )


@EVERY
def test_a_step_that_overflowed_neither_moves_nor_counts(
    optimizer_class: Any, kwargs: dict[str, Any]
) -> None:
    one, other, models = _pair(optimizer_class, lr=0.1, fused=True, **kwargs)
    for step, overflow in enumerate((True, False, False, True, False)):
        set_gradients(*models)
        for optimizer in (one, other):
            optimizer.grad_scale = torch.tensor([2.0 ** (step + 1)])
            # Two devices may have found one each.
            optimizer.found_inf = torch.tensor(2.0 if overflow else 0.0)
        if overflow:
            for model in models:
                model[2].grad[0] = torch.inf
        one.step()
        other.step()
        if step == 0:
            assert one.grad_sq_norm.isnan()
            assert other.grad_sq_norm is None
            assert all(state["step"] == 0 for state in one.state.values())
        else:
            _assert_equal(one, other, models)
    assert [state["step"].item() for state in one.state.values()] == [3] * 6


@EVERY
def test_an_overflow_after_histories_have_parted(
    optimizer_class: Any, kwargs: dict[str, Any]
) -> None:
    one, other, models = _pair(optimizer_class, lr=0.1, fused=True, **kwargs)
    for missing, overflow in ((1, False), (2, True), (None, False), (4, False), (None, True)):
        set_gradients(*models)
        for model in models:
            if missing is not None:
                model[missing].grad = None
        for optimizer in (one, other):
            optimizer.found_inf = torch.tensor(float(overflow))
            optimizer.step()
        _assert_equal(one, other, models)


def test_an_accumulator_that_is_infinite_stays_so_when_a_step_is_skipped() -> None:
    weight = Parameter(torch.ones(2))
    optimizer = AdagradNorm([weight], capturable=True, initial_accumulator_value=torch.inf)
    weight.grad = torch.full((2,), torch.nan)
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert accumulator_of(optimizer) == torch.inf
    assert torch.equal(weight, torch.ones(2))


def test_loss_scaling_with_the_scaler() -> None:
    ours = parameters([(3,), (2, 4)])
    theirs = copies(ours)
    one = Adagrad(ours, lr=0.1, lr_decay=0.1, fused=True, capturable=True)
    other = torch.optim.Adagrad(theirs, lr=0.1, lr_decay=0.1, fused=True)
    for optimizer, params in ((one, ours), (other, theirs)):
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0, growth_interval=2)
        for step in range(5):
            generator = torch.Generator().manual_seed(step)
            optimizer.zero_grad()
            loss = sum((p * torch.randn(p.shape, generator=generator)).sum() for p in params)
            scaler.scale(loss * (torch.inf if step in (0, 3) else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert_same(ours, theirs, rtol=1e-6, atol=1e-7)
    assert [state["step"].item() for state in one.state.values()] == [3, 3]


@BOTH
def test_the_norm_is_one_tensor_that_every_step_writes(optimizer_class: Any) -> None:
    params = parameters([(3,), (2, 2)])
    optimizer = optimizer_class(params, capturable=True)
    assert optimizer.grad_sq_norm is None
    norms = []
    for _ in range(2):
        set_gradients(params)
        optimizer.step()
        norms.append(optimizer.grad_sq_norm)
        expected = sum(param.grad.double().square().sum() for param in params)
        torch.testing.assert_close(norms[-1], expected, rtol=1e-6, atol=0)
    assert norms[0] is norms[1]
    optimizer.zero_grad()
    optimizer.step()
    assert norms[0].item() == 0


@BOTH
def test_sparse_gradients_are_refused_before_anything_moves(optimizer_class: Any) -> None:
    dense, sparse = Parameter(torch.ones(3)), Parameter(torch.ones(4, 2))
    optimizer = optimizer_class([{"params": [dense]}, {"params": [sparse]}], capturable=True)
    for kind in ("dense", "sparse"):  # once looked at, tensors pass through unexamined
        dense.grad, sparse.grad = torch.ones(3), torch.ones(4, 2)
        if kind == "sparse":
            before = [dense.detach().clone(), sparse.detach().clone()]
            with torch.sparse.check_sparse_tensor_invariants(True):
                sparse.grad = torch.sparse_coo_tensor([[1]], [[1.0, 2.0]], (4, 2))
            with pytest.raises(RuntimeError, match=r"sparse gradient.*pass capturable=False"):
                optimizer.step()
            assert_same([dense, sparse], before, rtol=0, atol=0)
        else:
            optimizer.step()
    assert [state["step"].item() for state in optimizer.state.values()] == [1, 1]


@pytest.mark.parametrize("name", ["lr", "grad_scale", "found_inf"])
@BOTH
def test_numbers_on_the_host_are_refused_for_parameters_on_a_device(
    optimizer_class: Any, name: str
) -> None:
    with pretended_cuda():
        weight = Parameter(torch.empty(3, device="cuda"))
        weight.grad = torch.empty_like(weight)
        optimizer = optimizer_class([weight], capturable=True)
        if name == "lr":
            optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
        else:
            setattr(optimizer, name, torch.tensor(1.0))
        with pytest.raises(ValueError, match=rf"{name} is a tensor on cpu.*device='cuda'"):
            optimizer.step()


@BOTH
def test_a_rate_of_several_elements_is_refused(optimizer_class: Any) -> None:
    weight = Parameter(torch.ones(3))
    optimizer = optimizer_class([weight], capturable=True)
    optimizer.param_groups[0]["lr"] = torch.ones(3)
    weight.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"lr has shape \(3,\); accepted is a single number"):
        optimizer.step()
    assert torch.equal(weight, torch.ones(3))
    assert optimizer.state[weight]["step"] == 0


def test_counts_written_by_hand_are_noticed() -> None:
    params = parameters([(2,), (3,)])
    twins = copies(params)
    optimizers = [Adagrad(m, lr_decay=0.5, capturable=m is params) for m in (params, twins)]
    for value in (None, 7.0, None, 3.0):
        set_gradients(params, twins)
        for optimizer in optimizers:
            if value is not None:
                list(optimizer.state.values())[1]["step"].fill_(value)
            optimizer.step()
        assert_same(params, twins, rtol=0, atol=0)


@pytest.mark.parametrize("tensor_rate", [False, True])
def test_counts_part_where_gradients_do(tensor_rate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for parameters of one history, however many histories there are."""
    from adadagrad_kernels.optim import adagrad as adagrad_module

    params = parameters([(2,), (3,), (4,), (5,)])
    rate = torch.tensor(0.1) if tensor_rate else 0.1
    optimizer = Adagrad(params, lr=rate, lr_decay=0.5, capturable=True)
    calls: list[list[int]] = []

    def spy(given: list[Parameter], *rest: Any) -> torch.Tensor:
        calls[-1].append(len(given))
        return original(given, *rest)

    original = adagrad_module.take_step
    monkeypatch.setattr(adagrad_module, "take_step", spy)
    for active in (range(4), (0, 1), range(4), (1, 2), range(4)):
        set_gradients(params)
        for i, param in enumerate(params):
            param.grad = param.grad if i in active else None
        calls.append([])
        optimizer.step()
    assert calls == [[4], [2], [2, 2], [1, 1], [1, 1, 1, 1]]
    twin = Adagrad(copies(params))
    twin.load_state_dict(optimizer.state_dict())
    set_gradients([param for group in twin.param_groups for param in group["params"]])
    calls.append([])
    twin.step()
    assert calls[-1] == [2, 1, 1]  # counted 4, 5, 4 and 3 times: loading has read them
