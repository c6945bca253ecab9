"""layer_statistics on tensors without values: nothing of its Python waits for a device.

On the device "meta" tensors have shapes and types, and reading a number of one raises. Every kind
of layer runs there as it does on a GPU: by the forms in plain torch, without the questions that
only a CPU asks of its tensors. What the model says of its samples was heard on the CPU before; the
numbers of the record are read once, as zeros.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_layer_on_device import KINDS, B
from torch import Tensor

from adadagrad_kernels import checks
from adadagrad_kernels.statistics import layer_statistics
from adadagrad_kernels.statistics.measuring import arrivals, model_call, problems

#: How many rows a sparse gradient has, is a number of the device's; torch waits for it too.
WAITS = ("sparse embedding", "sparse bags with offsets")


class Heard:
    """What a model has said on the CPU, said again of its twin without values."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._replies: list[Any] = []
        self._listens = True
        self._ask = model_call.ask_once
        patch.setattr(model_call, "ask_once", self._once)

    def repeat(self) -> None:
        self._listens = False

    def _once(self, *given: Any, **named: Any) -> Any:
        if self._listens:
            self._replies.append(self._ask(*given, **named))
            return self._replies[-1]
        return replace(self._replies.pop(0), asked=0)


class Reads:
    """Numbers that the host reads, counted, as zeros."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        patch.setattr(problems, "on_host", self._zeros)

    def _zeros(self, tensors: Sequence[Tensor]) -> list[list[float]]:
        self.count += 1
        assert all(tensor.is_meta for tensor in tensors)
        return [[0.0] * tensor.numel() for tensor in tensors]


@contextlib.contextmanager
def _no_autocast(kind: str, *given: Any, **named: Any) -> Iterator[None]:
    """Which "meta" does not have."""
    assert kind == "meta"
    yield


def _memory(tensor: Tensor) -> int:
    """Stands for the address of its elements."""
    return (tensor._values() if tensor.is_sparse else tensor).untyped_storage()._cdata


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The numbers that are read on "meta", which has no autocast and no memory."""
    for name, of_meta in (("is_autocast_enabled", False), ("get_autocast_dtype", torch.bfloat16)):
        real = getattr(torch, name)
        monkeypatch.setattr(
            torch,
            name,
            lambda kind, real=real, of_meta=of_meta: of_meta if kind == "meta" else real(kind),
        )
    monkeypatch.setattr(arrivals, "storage_pointer", _memory)
    for check in (checks.require_plain, checks.require_disjoint):
        monkeypatch.setattr(check, "__code__", (lambda *_: None).__code__)
    return Reads(monkeypatch)


@pytest.mark.parametrize("shadow", [False, True], ids=["measured", "shadow"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WAITS])
def test_every_kind_of_layer(
    kind: str, shadow: bool, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, make = KINDS[kind]
    model, inputs = build(), make()
    heard = Heard(monkeypatch)
    with layer_statistics(model) as recorder:
        model(inputs).square().sum().backward()
        recorder.reset()
    model.zero_grad()
    heard.repeat()
    asked = {"variance": True, "inner_products": True, "shadow": shadow}
    model, inputs = model.to("meta"), inputs.to("meta")
    monkeypatch.setattr(torch, "autocast", _no_autocast)
    with layer_statistics(model, **asked) as recorder:
        model(inputs).square().sum().backward()
        record = recorder.statistics()
    assert record is not None
    assert reads.count == 1
    assert record.batch_size == B
    assert record.sq_norms is not None
    assert record.variance is not None
    assert record.inner_products is not None
    for numbers in (record.sq_norms, record.inner_products):
        assert (numbers.shape, numbers.dtype, numbers.is_meta) == ((B,), torch.float64, True)
    for name, parameter in model.named_parameters():
        for tensor in (parameter.grad, record.variance[name]):
            assert tensor is not None
            assert tensor.is_meta
            assert tensor.shape == parameter.shape
