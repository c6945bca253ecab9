"""What torch's compiler is asked to leave alone, in the terms of every release of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import adadagrad_kernels as adk


class Own(nn.Module):
    """A layer that no formula is known for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@pytest.mark.parametrize("shadow", [False, True])
def test_it_is_functions_alone(monkeypatch: pytest.MonkeyPatch, shadow: bool) -> None:
    """torch before 2.8 fails where it is given a partial or another object that can be called."""
    import torch._dynamo  # without it nothing is asked

    real: Callable[..., Any] = torch.compiler.disable
    given: list[object] = []

    def disable(fn: object = None, **options: Any) -> Any:
        given.append(fn)
        return real(fn, **options)

    monkeypatch.setattr(torch.compiler, "disable", disable)
    model = nn.Sequential(
        nn.Embedding(5, 4),
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        Own(),
        nn.LSTM(4, 4, batch_first=True),
    )
    with adk.layer_statistics(model, shadow=shadow) as recorder:
        model(torch.randint(5, (3, 2)))[0].square().mean().backward()
        assert recorder.statistics().batch_size == 3
    assert len(given) > 5
    assert [fn for fn in given if not inspect.isroutine(fn)] == []
