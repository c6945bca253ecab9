"""State of capturable optimizers: where it lies, what loading does, and what a capture refuses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from no_waiting import pretended_cuda
from torch.nn import Parameter
from trajectories import assert_same, copies, parameters, set_gradients

from adadagrad_kernels.optim import Adagrad, AdagradNorm

BOTH = pytest.mark.parametrize("optimizer_class", [Adagrad, AdagradNorm])


def _train(steps: int, *optimizers: Any) -> None:
    models = [[p for g in o.param_groups for p in g["params"]] for o in optimizers]
    for _ in range(steps):
        set_gradients(*models)
        for optimizer in optimizers:
            optimizer.step()


@BOTH
@pytest.mark.parametrize("flags", [{}, {"fused": True}, {"capturable": True}], ids=str)
def test_counters_lie_where_torch_keeps_them(optimizer_class: Any, flags: dict[str, Any]) -> None:
    with pretended_cuda():
        params = [Parameter(torch.empty(3, device="cuda")) for _ in range(2)]
        optimizer = optimizer_class(params, **flags)
        reference = torch.optim.Adam(params, **flags)
        for param in params:
            param.grad = torch.empty_like(param)
        reference._init_group(reference.param_groups[0], [], [], [], [], [], [])
        for param in params:
            ours, theirs = optimizer.state[param]["step"], reference.state[param]["step"]
            assert (ours.device, ours.dtype) == (theirs.device, theirs.dtype)
        saved = optimizer.state_dict()
        for state in saved["state"].values():
            state["step"] = torch.zeros(())  # as a checkpoint that was read to the CPU
        loaded = optimizer_class(params)
        loaded.load_state_dict(saved)
        assert all(state["step"].is_cuda == bool(flags) for state in loaded.state.values())


def test_a_checkpoint_without_the_option_leaves_it_as_it_is() -> None:
    """Of torch, or of an earlier version; the counters are moved though torch does not know."""
    with pretended_cuda():
        params = [Parameter(torch.empty(3, device="cuda")) for _ in range(2)]
        saved = torch.optim.Adagrad(params, foreach=False).state_dict()
        for flag in (False, True):
            optimizer = Adagrad(params, capturable=flag)
            optimizer.load_state_dict(saved)
            assert optimizer.param_groups[0]["capturable"] is flag
            assert all(state["step"].is_cuda == flag for state in optimizer.state.values())


@BOTH
@pytest.mark.parametrize("saved_with", [False, True])
def test_state_swaps_between_capturable_and_not(optimizer_class: Any, saved_with: bool) -> None:
    """As with torch's own optimizers the saved groups' options hold."""
    params = parameters()
    one = optimizer_class(params, lr=0.1, capturable=saved_with)
    _train(3, one)
    other = optimizer_class(copies(params), capturable=not saved_with)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert other.param_groups[0]["capturable"] is saved_with
    other.param_groups[0]["capturable"] = not saved_with
    _train(3, one, other)
    assert_same(params, other.param_groups[0]["params"], rtol=0, atol=0)
    for ours, theirs in zip(one.state.values(), other.state.values(), strict=True):
        assert torch.equal(ours["step"], theirs["step"])
        torch.testing.assert_close(ours["sum"], theirs["sum"], rtol=1e-14, atol=0)


@pytest.mark.parametrize("to_ours", [False, True])
def test_state_swaps_with_torch(to_ours: bool) -> None:
    settings = {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1}
    params = parameters()
    twins = copies(params)
    ours = Adagrad(twins if to_ours else params, capturable=True, **settings)
    theirs = torch.optim.Adagrad(params if to_ours else twins, foreach=False, **settings)
    source, target = (theirs, ours) if to_ours else (ours, theirs)
    _train(3, source)
    for param, twin in zip(params, twins, strict=True):
        twin.data.copy_(param.detach())
    target.load_state_dict(copy.deepcopy(source.state_dict()))
    _train(3, ours, theirs)
    assert_same(params, twins, rtol=1e-6, atol=1e-6)
    assert [state["step"].item() for state in target.state.values()] == [6] * 6


@BOTH
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_alike(optimizer_class: Any, how: str) -> None:
    model = torch.nn.Linear(3, 2)
    pair = (model, optimizer_class(model.parameters(), lr=0.1, capturable=True))
    _train(2, pair[1])
    twin, other = copy.deepcopy(pair) if how == "deepcopy" else pickle.loads(pickle.dumps(pair))
    assert other.param_groups[0]["capturable"]
    _train(2, pair[1], other)
    assert_same(twin.parameters(), model.parameters(), rtol=0, atol=0)
    assert other.grad_sq_norm is not pair[1].grad_sq_norm


@BOTH
def test_an_older_pickle_knows_nothing_of_it(optimizer_class: Any) -> None:
    optimizer = optimizer_class(parameters([(3,), (2,)]))
    state = optimizer.__getstate__()
    del state["defaults"]["capturable"], state["param_groups"][0]["capturable"]
    old = object.__new__(optimizer_class)
    old.__setstate__(state)
    assert old.param_groups[0]["capturable"] is False
    old.add_param_group({"params": parameters([(4,)])})
    _train(2, old)
    assert [state["step"].item() for state in old.state.values()] == [2, 2, 2]


@BOTH
def test_parameters_found_on_another_device_are_set_up_anew(optimizer_class: Any) -> None:
    params = parameters([(3,)])
    optimizer = optimizer_class(params, capturable=True)
    _train(1, optimizer)
    (bucket,) = optimizer._buckets
    bucket.device = torch.device("meta")  # as if they had been there
    _train(1, optimizer)
    assert optimizer._buckets[0] is not bucket
    assert optimizer.state[params[0]]["step"].item() == 2


@BOTH
def test_a_group_may_turn_capturable(optimizer_class: Any) -> None:
    with pretended_cuda():
        weight = Parameter(torch.empty(3, device="cuda"))
        weight.grad = torch.empty_like(weight)
        optimizer = optimizer_class([weight])
        for capturable in (False, True):
            optimizer.param_groups[0]["capturable"] = capturable
            optimizer.step()
            assert optimizer.state[weight]["step"].is_cuda == capturable


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switches a pretended capture on and off."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    def switch(on: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: on)

    switch(False)
    return switch


@BOTH
def test_a_capture_wants_capturable(optimizer_class: Any, capturing: Any) -> None:
    with pretended_cuda():
        params = [Parameter(torch.empty(3, device="cuda")) for _ in range(2)]
        groups = [{"params": params[:1], "capturable": True}, {"params": params[1:]}]
        optimizer = optimizer_class(groups)
        capturing(True)
        name = optimizer_class.__name__
        with pytest.raises(RuntimeError, match=f"instance of {name} but.*pass capturable=True"):
            optimizer.step()
        capturing(False)
        optimizer.step()


@BOTH
def test_a_capture_without_a_step_before(optimizer_class: Any, capturing: Any) -> None:
    """All that is not to be recorded was done by the constructor, or by loading."""
    with pretended_cuda():
        params = [Parameter(torch.empty(3, device="cuda")) for _ in range(2)]
        optimizer = optimizer_class(params, capturable=True)
        for load in (False, True):
            if load:
                capturing(False)
                optimizer.load_state_dict(optimizer.state_dict())
            counters = [optimizer.state[param]["step"] for param in params]
            capturing(True)
            for param in params:
                param.grad = torch.empty_like(param)
            optimizer.step()
            for param, counter in zip(params, counters, strict=True):
                assert optimizer.state[param]["step"] is counter


@BOTH
def test_a_capture_with_parameters_on_the_cpu_is_refused(
    optimizer_class: Any, capturing: Any
) -> None:
    """Outside of a capture capturable=True takes ordinary steps there."""
    params = parameters([(3,)])
    optimizer = optimizer_class(params, capturable=True)
    set_gradients(params)
    optimizer.step()
    before = copies(params)
    capturing(True)
    with pytest.raises(RuntimeError, match="parameters on the CPU, which a replay would leave"):
        optimizer.step()
    assert_same(params, before, rtol=0, atol=0)
    assert [state["step"].item() for state in optimizer.state.values()] == [1]


@BOTH
def test_new_state_cannot_be_set_up_in_a_capture(optimizer_class: Any, capturing: Any) -> None:
    params = parameters([(3,)])
    optimizer = optimizer_class(params, capturable=True)
    optimizer.state.clear()
    capturing(True)
    with pytest.raises(RuntimeError, match="take a step before the capture"):
        optimizer.step()
    assert not optimizer.state


def test_counts_that_a_graph_takes_for_equal_may_not_part(capturing: Any) -> None:
    with pretended_cuda():
        params = [Parameter(torch.empty(3, device="cuda")) for _ in range(3)]
        optimizer = Adagrad(params, lr_decay=0.1, capturable=True)

        def step(active: tuple[int, ...], captured: bool) -> None:
            capturing(captured)
            for i, param in enumerate(params):
                param.grad = torch.empty_like(param) if i in active else None
            optimizer.step()

        step((0, 1), captured=True)
        step((0, 1), captured=False)
        step((2,), captured=True)
        with pytest.raises(RuntimeError, match=r"1 of 3 parameters.*a group of their own"):
            step((0,), captured=False)
        step((0, 1, 2), captured=False)
