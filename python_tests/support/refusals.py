"""What the tests of refusals share: a small model, and what an error must leave behind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@contextmanager
def refused(model: nn.Module, *parts: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """The body raises with all of these words, and no module keeps a changed forward."""
    with pytest.raises(kind) as caught:
        yield
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"
    assert re.search(r"[Ww]ays? out|[Cc]all |[Uu]se |[Pp]ass ", str(caught.value))
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def plain(model: nn.Module, loss: Callable[[], Tensor]) -> list[Tensor | None]:
    model.zero_grad()
    loss().backward()
    found = [p.grad for p in model.parameters()]
    model.zero_grad()
    return found


def assert_intact(model: nn.Module, expected: list[Tensor | None]) -> None:
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
