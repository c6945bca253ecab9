"""layer_statistics against plain autograd, one sample at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support import sample_models
from support.sample_loop import SampleLoop
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics


def plain_gradients(case: sample_models.Case) -> dict[str, Tensor | None]:
    case.model.zero_grad()
    case.loss_fn(case.model(case.inputs), case.targets).backward()
    found = {name: p.grad for name, p in case.model.named_parameters()}
    case.model.zero_grad()
    return found


def assert_gradients(model: nn.Module, expected: dict[str, Tensor | None], **close: Any) -> None:
    close = close or {"rtol": 1e-10, "atol": 1e-12}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], **close)


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("name", sample_models.NAMES)
def test_every_statistic_and_the_gradient(name: str, shadow: bool) -> None:
    case = sample_models.make(name)
    expected = plain_gradients(case)
    before = dict(case.model.named_modules())
    with layer_statistics(
        case.model, inner_products=True, variance=True, shadow=shadow
    ) as recorder:
        case.loss_fn(case.model(case.inputs), case.targets).backward()
        statistics = recorder.statistics()
    assert statistics is not None
    assert_gradients(case.model, expected)
    assert all("forward" not in module.__dict__ for module in before.values())
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    loop.check(statistics, inner_products=True, variance=True, loss=False)
