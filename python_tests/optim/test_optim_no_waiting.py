"""No step off the host, or with capturable=True, reads a number or copies between devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from no_waiting import WaitsError, no_reading, pretended_cuda
from torch import Tensor
from torch.nn import Parameter
from trajectories import parameters, set_gradients

from adadagrad_kernels import use_backend
from adadagrad_kernels.optim import Adagrad, AdagradNorm
from adadagrad_kernels.optim._buckets import Bucket
from adadagrad_kernels.optim._counters import Counters

DECAYS = {"lr_decay": 0.1, "weight_decay": 0.1, "maximize": True}
CASES: tuple[tuple[Any, dict[str, Any]], ...] = (
    (Adagrad, {}),
    (Adagrad, DECAYS),
    (AdagradNorm, {"weight_decay": 0.1}),
    (AdagradNorm, {"row_wise": True, "maximize": True}),
)
EVERY = pytest.mark.parametrize(
    ("optimizer_class", "kwargs"), CASES, ids=["plain", "decays", "norm", "rows"]
)
SCALED = pytest.mark.parametrize("scaled", [None, 0.0, 1.0])

# A fake tensor has no memory; that join asks whether two have the same is what they are for.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")


def _groups(params: list[Parameter]) -> list[dict[str, Any]]:
    """Two groups, so that AdagradNorm has to measure one of them first."""
    return [{"params": params[:3]}, {"params": params[3:], "eps": 1e-3}]


def _scale(optimizer: Any, scaled: float | None, device: str) -> None:
    if scaled is not None:
        optimizer.grad_scale = torch.full((1,), 4.0, device=device)
        optimizer.found_inf = torch.full((), scaled, device=device)


@pytest.mark.parametrize("tensor_rate", [False, True])
@SCALED
@EVERY
def test_a_capturable_step_reads_nothing(
    optimizer_class: Any, kwargs: dict[str, Any], scaled: float | None, tensor_rate: bool
) -> None:
    params = parameters()
    rate = torch.tensor(0.1) if tensor_rate else 0.1
    optimizer = optimizer_class(_groups(params), lr=rate, fused=True, capturable=True, **kwargs)
    _scale(optimizer, scaled, "cpu")
    set_gradients(params)
    before = [param.detach().clone() for param in params]
    with use_backend("reference"):
        for active in (range(6), range(6), (0, 2, 4), (1,), ()):
            for i, param in enumerate(params):
                param.grad = param.grad if i in active else None
            with no_reading():
                optimizer.step()
    counts = [state["step"].item() for state in optimizer.state.values()]
    assert counts == ([0] * 6 if scaled else [3, 2, 3, 2, 3, 2])
    moved = [not torch.equal(param, old) for param, old in zip(params, before, strict=True)]
    assert moved == [not scaled and param.numel() > 0 for param in params]


@pytest.mark.parametrize("flags", [{}, {"fused": True}, {"capturable": True}], ids=str)
@pytest.mark.parametrize("tensor_rate", [False, True])
@SCALED
@EVERY
def test_a_step_on_a_device_reads_nothing(
    optimizer_class: Any,
    kwargs: dict[str, Any],
    scaled: float | None,
    tensor_rate: bool,
    flags: dict[str, Any],
) -> None:
    """Not the first one either, nor with gradients for some, nor after a group has joined."""
    with pretended_cuda():
        params = [Parameter(torch.empty(n, 3, device="cuda")) for n in (5, 2, 1, 7)]
        late = Parameter(torch.empty(3, device="cuda"))
        optimizer = optimizer_class(_groups(params), lr=0.1, **flags, **kwargs)
        counted_there = bool(flags) or scaled is not None
        for step, active in enumerate((range(4), (0, 2), range(4), ())):
            for group in optimizer.param_groups:
                if tensor_rate:
                    group["lr"] = torch.full((1,), 0.1, device="cuda")
            for i, param in enumerate(params):
                param.grad = torch.empty_like(param) if i in active else None
            _scale(optimizer, scaled, "cuda")
            if scaled is not None and step == 0 and not flags:
                optimizer.step()  # the counters move to where the flag is
            with no_reading():
                optimizer.step()
        states = [optimizer.state[param] for param in params]
        assert all(state["step"].is_cuda == counted_there for state in states)
        assert all(state["sum"].is_cuda for state in states)
        assert optimizer.grad_sq_norm.is_cuda
        if not flags and scaled is None:
            optimizer.add_param_group({"params": [late]})
            late.grad = torch.empty_like(late)
            with no_reading():
                optimizer.step()


def test_state_given_by_hand_is_not_read_either() -> None:
    with pretended_cuda():
        params = [Parameter(torch.empty(3, device="cuda")) for _ in range(3)]
        optimizer = Adagrad(params, capturable=True, lr_decay=0.1)
        optimizer.state[params[0]]["step"] = torch.zeros((), device="cuda")
        for param in params:
            param.grad = torch.empty_like(param)
        with no_reading():
            optimizer.step()
            optimizer.step()


def _fault_rate(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Bucket, "number", lambda _, name, value: float(value))


def _fault_counts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Counters, "_readable", lambda _: True)


def _fault_flag(patch: pytest.MonkeyPatch) -> None:
    original = Bucket.flag

    def read(bucket: Bucket, found_inf: Tensor) -> Tensor:
        assert not found_inf.any()
        return original(bucket, found_inf)

    patch.setattr(Bucket, "flag", read)


@pytest.mark.parametrize("fault", [_fault_rate, _fault_counts, _fault_flag])
@pytest.mark.parametrize("pretended", [False, True])
def test_a_step_that_reads_is_caught(
    fault: Any, pretended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch)
    if not pretended:
        params = parameters([(3,), (2,)])
        optimizer = Adagrad(params, lr=torch.tensor(0.1), lr_decay=0.1, capturable=True)
        set_gradients(params)
        _scale(optimizer, 0.0, "cpu")
        with use_backend("reference"), no_reading(), pytest.raises(WaitsError):
            optimizer.step()
        return
    with pretended_cuda():
        params = [Parameter(torch.empty(3, device="cuda"))]
        optimizer = Adagrad(params, lr_decay=0.1, capturable=True)
        optimizer.param_groups[0]["lr"] = torch.full((), 0.1, device="cuda")
        params[0].grad = torch.empty_like(params[0])
        _scale(optimizer, 0.0, "cuda")
        with no_reading(), pytest.raises(WaitsError):
            optimizer.step()


def test_masks_and_copies_are_caught() -> None:
    with pretended_cuda():
        there = torch.zeros(3, device="cuda")
        mask = torch.zeros(3, dtype=torch.bool, device="cuda")
        here = torch.zeros(3)
        with no_reading():
            with pytest.raises(WaitsError, match="by a mask"):
                torch.ops.aten.index_put_(there, [mask], here.sum())
            with pytest.raises(WaitsError, match="between"):
                there.to("cpu")
            with pytest.raises(WaitsError, match="between"):
                there.copy_(here)
