"""Asking a model shows nowhere: not in what its forward pass reaches, in hooks or in draws."""

from __future__ import annotations

import array
import functools
import logging
import queue
import threading
import weakref
from collections import UserDict, deque
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from support.zoo.entry import Model
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics

B, D = 6, 4


def step(model: nn.Module, *args: Any) -> None:
    with layer_statistics(model) as recorder:
        model(*args).square().mean().backward()
        recorder.statistics()


class FrozenDict(dict[str, int]):
    """Cannot be refilled."""

    def clear(self) -> NoReturn:
        raise TypeError("frozen")


def read_only() -> Any:
    values = np.zeros(3)
    values.flags.writeable = False
    return values


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    "kept",
    [
        lambda: torch.eye(D).to_sparse(),
        lambda: torch.eye(D).to_sparse_csr(),
        read_only,
        lambda: FrozenDict(a=1),
        lambda: UserDict(a=1),
        lambda: deque([1]),
        queue.Queue,
        logging.getLogger,
        threading.Lock,
    ],
    ids=["sparse", "csr", "array", "frozen", "UserDict", "deque", "queue", "logger", "lock"],
)
def test_values_that_are_hard_to_put_back(kept: Callable[[], Any]) -> None:
    """They stop nothing: counts, dropout and draws are those of a plain step."""

    def run(m: Any, x: Tensor) -> Tensor:
        m.calls += 1
        if isinstance(m.kept, queue.Queue):
            m.kept.put(m.calls)
        result: Tensor = m.b(nn.functional.dropout(m.a(x)))
        return result

    found = []
    for measured in (False, True):
        torch.manual_seed(0)
        model = Model(run, kept=kept(), calls=0, a=nn.Linear(D, D), b=nn.Linear(D, 2))
        if measured:
            step(model, torch.ones(B, D))
        else:
            model(torch.ones(B, D)).square().mean().backward()
        assert isinstance(model.a, nn.Linear)
        assert not isinstance(model.kept, queue.Queue) or model.kept.qsize() == 1
        found.append((model.calls, model.a.weight.grad, torch.rand(2)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=0)


class Slots:
    __slots__ = ("calls",)

    def __init__(self) -> None:
        self.calls = 0


class Plain:
    calls = 0
    teacher: Any = None


COUNT = 0
TENSOR = torch.zeros(())
OBJECT = Plain()


def count_globally() -> None:
    global COUNT
    COUNT += 1
    TENSOR.add_(1)
    OBJECT.calls += 1
    Plain.calls += 1


class Helped(nn.Module):
    """Counts in methods, functions and values that its forward pass names or closes over."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.slots = nn.Linear(D, D), Slots()
        self.bytes, self.numbers = bytearray(1), array.array("i", [0])
        calls = 0

        def count() -> None:
            nonlocal calls
            calls += 1

        self.count, self.counted = count, lambda: calls

    def forward(self, x: Tensor, append: Callable[[int], None]) -> Tensor:
        append(len(x))
        self.help()
        result: Tensor = self.layer(x)
        return result

    def help(self) -> None:
        count_globally()
        self.count()
        self.slots.calls += 1
        self.bytes[0] += 1
        self.numbers[0] += 1


def test_what_a_forward_pass_reaches() -> None:
    model, given = Helped(), list[int]()
    before = [COUNT, int(TENSOR), OBJECT.calls, Plain.calls]
    step(model, torch.randn(B, D), given.append)
    after = [COUNT, int(TENSOR), OBJECT.calls, Plain.calls]
    assert [a - b for a, b in zip(after, before, strict=True)] == [1, 1, 1, 1]
    assert given == [B]
    counted = [model.counted(), model.slots.calls, model.bytes[0], model.numbers[0]]
    assert counted == [1, 1, 1, 1]


def hidden_places() -> dict[str, Callable[[nn.Module], Any]]:
    def of_object(teacher: nn.Module) -> Any:
        keeper = Plain()
        keeper.teacher = teacher
        return keeper

    return {
        "object": of_object,
        "list": lambda teacher: [[[[teacher]]]],
        "partial": lambda teacher: functools.partial(teacher),
        "closure": lambda teacher: lambda x: teacher(x),
        "method": lambda teacher: teacher.forward,
        "deque": lambda teacher: deque([teacher]),
        "weak": lambda teacher: weakref.ref(teacher),
    }


@pytest.mark.parametrize("place", hidden_places())
@pytest.mark.parametrize("argument", [False, True])
def test_a_hidden_module(place: str, argument: bool) -> None:
    """A teacher that no module registers keeps its statistics, wherever it hides."""
    teacher = nn.BatchNorm1d(D)
    hidden = hidden_places()[place](teacher)

    def run(m: Any, x: Tensor, *_: Any) -> Tensor:
        with torch.no_grad():
            teacher(x)
        result: Tensor = m.layer(x)
        return result

    if argument:
        step(Model(run, layer=nn.Linear(D, D)), torch.randn(B, D), hidden)
    else:
        step(Model(run, layer=nn.Linear(D, D), hidden=hidden), torch.randn(B, D))
    assert teacher.num_batches_tracked == 1


def test_hooks_of_the_backward_pass_run_once() -> None:
    calls = {"full": 0, "before": 0, "tensor": 0, "all": 0}

    def counts(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    def run(m: Any, x: Tensor) -> Tensor:
        h: Tensor = m.a(x).tanh()
        h.register_hook(counts("tensor"))
        result: Tensor = m.b(h)
        return result

    model = Model(run, a=nn.Linear(D, D), b=nn.Linear(D, 2))
    assert isinstance(model.b, nn.Linear)
    model.b.register_full_backward_hook(counts("full"))
    model.b.register_full_backward_pre_hook(counts("before"))
    handle = nn.modules.module.register_module_full_backward_hook(
        lambda module, *_: counts("all")() if module is model.b else None
    )
    try:
        step(model, torch.randn(B, D, requires_grad=True))
    finally:
        handle.remove()
    assert calls == {"full": 1, "before": 1, "tensor": 1, "all": 1}


def test_a_hook_that_changes_gradients_does_it_once() -> None:
    """The sample alone would have another gradient, which nobody looks into."""
    calls: list[int] = []

    def noisy(module: nn.Module, given: Any, grads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        calls.append(1)
        return tuple(1.5 * grad for grad in grads)

    model = Model(lambda m, x: m.b(m.a(x).tanh()), a=nn.Linear(D, D), b=nn.Linear(D, 2))
    assert isinstance(model.b, nn.Linear)
    model.b.register_full_backward_hook(lambda m, given, grads: noisy(m, grads, given))
    step(model, torch.randn(B, D))
    assert calls == [1]


def test_a_backward_pass_of_a_users_function_runs_once() -> None:
    calls: list[int] = []

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            calls.append(1)
            return 2 * grads[0]

    model = Model(lambda m, x: m.b(Scaled.apply(m.a(x))), a=nn.Linear(D, D), b=nn.Linear(D, 2))
    step(model, torch.randn(B, D))
    assert calls == [1]
