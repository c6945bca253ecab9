"""State dicts: to torch.optim.Adagrad and back, old ones, pickles, copies, torch's checkpoints."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from trajectories import (
    SHAPES,
    assert_same,
    assert_same_state,
    copies,
    follow,
    parameters,
    set_gradients,
)

from adadagrad_kernels.optim import Adagrad, AdagradNorm

BOTH = pytest.mark.parametrize("optimizer_class", [Adagrad, AdagradNorm])
SETTINGS = {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.3}


def _train(optimizer: Any, steps: int, *others: Any) -> None:
    models = [[p for g in o.param_groups for p in g["params"]] for o in (optimizer, *others)]
    for _ in range(steps):
        set_gradients(*models)
        for each in (optimizer, *others):
            each.step()


def _saved(optimizer: Any) -> dict[str, Any]:
    """What is left of a state dict after a file."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("from_ours", [True, False])
def test_state_swaps_with_torch(from_ours: bool, fused: bool | None, dtype: torch.dtype) -> None:
    def torch_adagrad(params: list[Parameter], **kwargs: Any) -> torch.optim.Adagrad:
        return torch.optim.Adagrad(params, foreach=False, **kwargs)

    first, second = (Adagrad, torch_adagrad) if from_ours else (torch_adagrad, Adagrad)
    flags = {} if fused is None else {"fused": True}
    if fused:
        first, second = (torch.optim.Adagrad, Adagrad)[:: -1 if from_ours else 1]
    params = parameters(dtype=dtype, size=0.1)
    before = first(params, **SETTINGS, **flags)
    _train(before, 3)
    other = copies(params)
    after = second(other, **flags)
    after.load_state_dict(_saved(before))
    assert after.param_groups[0]["lr_decay"] == 0.2
    assert_same_state(after, before, rtol=0)
    pair = (before, after) if from_ours else (after, before)
    follow(*pair, steps=3)


def test_the_state_dict_has_torchs_keys_and_types() -> None:
    params = parameters([(3,), (2, 2)])
    ours, theirs = Adagrad(params), torch.optim.Adagrad(copies(params))
    for _ in range(2):
        one, other = ours.state_dict(), theirs.state_dict()
        assert one["param_groups"] == [{**g, "capturable": False} for g in other["param_groups"]]
        assert one["state"].keys() == other["state"].keys()
        for key in one["state"]:
            assert one["state"][key].keys() == other["state"][key].keys()
        _train(ours, 1, theirs)


def test_checkpoints_from_before_the_newer_options() -> None:
    params = parameters([(3,), (2, 2)])
    reference = torch.optim.Adagrad(params, lr=0.1, lr_decay=0.5, foreach=False)
    _train(reference, 3)
    state_dict = copy.deepcopy(reference.state_dict())
    for group in state_dict["param_groups"]:
        for name in ("foreach", "maximize", "differentiable", "fused"):
            del group[name]
    for state in state_dict["state"].values():
        state["step"] = int(state["step"])
    ours = Adagrad(copies(params))
    ours.load_state_dict(state_dict)
    assert ours.param_groups[0]["maximize"] is False
    assert ours.param_groups[0]["fused"] is None
    follow(ours, reference, steps=3)


def test_a_differentiable_run_of_torch_goes_on_here() -> None:
    params = parameters([(3,)])
    reference = torch.optim.Adagrad(params, lr=0.2, foreach=False)
    _train(reference, 2)
    saved = copy.deepcopy(reference.state_dict())
    saved["param_groups"][0]["differentiable"] = True
    ours = Adagrad(copies(params))
    ours.load_state_dict(saved)
    follow(ours, reference, steps=2)


@BOTH
def test_a_resumed_run_is_the_same_to_the_last_bit(
    optimizer_class: Callable[..., Any], dtype: torch.dtype
) -> None:
    params = parameters(dtype=dtype, size=0.1)
    optimizer = optimizer_class(params, lr=0.1)
    _train(optimizer, 3)
    resumed = copies(params)
    other = optimizer_class(resumed)
    other.load_state_dict(_saved(optimizer))
    for ours, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert theirs["sum"].dtype == ours["sum"].dtype
    _train(optimizer, 3, other)
    assert_same(params, resumed, rtol=0, atol=0)
    for ours, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert torch.equal(ours["sum"], theirs["sum"])
        assert torch.equal(ours["step"], theirs["step"])


@BOTH
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_are_independent_and_go_on_alike(optimizer_class: Any, how: str) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = optimizer_class(model.parameters(), lr=0.1, fused=True)
    _train(optimizer, 2)
    pair = (model, optimizer)
    twin, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert other._step_supports_amp_scaling
    before = [param.detach().clone() for param in twin.parameters()]
    _train(optimizer, 1)
    assert_same(twin.parameters(), before, rtol=0, atol=0)
    assert [state["step"].item() for state in other.state.values()] == [2, 2]
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        theirs.grad = ours.grad.clone()
    other.step()
    assert_same(twin.parameters(), model.parameters(), rtol=0, atol=0)
    assert [state["step"].item() for state in other.state.values()] == [3, 3]


@BOTH
def test_state_dict_hooks_fire(optimizer_class: Any) -> None:
    optimizer = optimizer_class(parameters([(3,)]))
    seen: list[str] = []

    def rename(_: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        seen.append("renamed")
        return {name.removeprefix("my_"): value for name, value in state_dict.items()}

    optimizer.register_state_dict_pre_hook(lambda _: seen.append("before"))
    optimizer.register_state_dict_post_hook(
        lambda _, saved: {f"my_{name}": value for name, value in saved.items()}
    )
    optimizer.register_load_state_dict_pre_hook(rename)
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    _train(optimizer, 1)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved.keys() == {"my_state", "my_param_groups"}
    _train(optimizer, 1)
    optimizer.load_state_dict(saved)
    assert seen == ["before", "renamed", "loaded"]
    assert next(iter(optimizer.state.values()))["step"].item() == 1


def test_a_state_of_other_shapes_is_refused_before_anything_moves() -> None:
    params = parameters([(2, 3)])
    optimizer = Adagrad(params)
    optimizer.load_state_dict(AdagradNorm(copies(params)).state_dict())
    before = copies(params)
    set_gradients(params)
    with pytest.raises(ValueError, match="adagrad_state_dict"):
        optimizer.step()
    assert_same(params, before, rtol=0, atol=0)


@BOTH
def test_the_state_of_another_optimizer_is_refused_on_loading(optimizer_class: Any) -> None:
    params = parameters([(2, 3)])
    optimizer = optimizer_class(params)
    adam = torch.optim.Adam(copies(params))
    _train(adam, 1, optimizer)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"\['exp_avg', 'exp_avg_sq', 'step'\]; accepted"):
        optimizer.load_state_dict(adam.state_dict())
    assert optimizer.state_dict() == before


@BOTH
def test_settings_of_another_optimizer_are_refused_on_loading(optimizer_class: Any) -> None:
    params = parameters([(2, 3)])
    with pytest.raises(ValueError, match="has no eps: it is of another optimizer"):
        optimizer_class(params).load_state_dict(torch.optim.SGD(copies(params)).state_dict())


def test_counters_of_a_part_in_another_order_are_told_apart() -> None:
    """They lie in one storage, but not one after another."""
    params = parameters([(2,), (3,), (4,)])
    optimizer = Adagrad(params)
    _train(optimizer, 3)
    optimizer.state[params[1]]["step"] -= 2
    saved = optimizer.state_dict()
    for chosen in ([0, 2], [2, 1], [1]):
        part = Adagrad(copies([params[i] for i in chosen]))
        part.load_state_dict(
            {
                "state": {i: dict(saved["state"][old]) for i, old in enumerate(chosen)},
                "param_groups": [{**saved["param_groups"][0], "params": list(range(len(chosen)))}],
            }
        )
        counts = [state["step"].item() for state in part.state.values()]
        _train(part, 1)
        assert [state["step"].item() - 1 for state in part.state.values()] == counts


@BOTH
@pytest.mark.filterwarnings("ignore::FutureWarning:torch.distributed")
def test_distributed_checkpoint_round_trip(optimizer_class: Any) -> None:
    state_dict = pytest.importorskip("torch.distributed.checkpoint.state_dict")
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = optimizer_class(model.parameters(), lr=0.1)
    _train(optimizer, 3)
    saved = copy.deepcopy(state_dict.get_optimizer_state_dict(model, optimizer))
    assert saved["state"].keys() == {name for name, _ in model.named_parameters()}
    twin = copy.deepcopy(model)
    other = optimizer_class(twin.parameters())
    state_dict.set_optimizer_state_dict(twin, other, saved)
    assert other.param_groups[0]["lr"] == 0.1
    for ours, theirs in zip(optimizer.state.values(), other.state.values(), strict=True):
        assert theirs["sum"].dtype == ours["sum"].dtype
    _train(optimizer, 2, other)
    assert_same(twin.parameters(), model.parameters(), rtol=0, atol=0)


def test_counters_are_separate_tensors_to_everyone_else() -> None:
    """They share memory, which neither a partial load nor a write to one may show."""
    params = parameters(SHAPES)
    optimizer = Adagrad(params)
    _train(optimizer, 2)
    steps = [optimizer.state[param]["step"] for param in params]
    assert all(step.shape == () and step.dtype == torch.float32 for step in steps)
    steps[1] += 5
    assert [step.item() for step in steps] == [2, 7, 2, 2, 2, 2]
    file = io.BytesIO()
    torch.save(steps[1], file)
    file.seek(0)
    assert torch.load(file, weights_only=True).item() == 7
