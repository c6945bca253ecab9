"""Traps of schedules and optimizers: each where it is, and gone where it is mended."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning.pytorch", reason="lightning is not installed")
pytest.importorskip("accelerate", reason="accelerate is not installed")

from accelerate import Accelerator
from traps import codes, controller

import adadagrad_kernels as adk
from adadagrad_kernels import integrations
from adadagrad_kernels.integrations.checkup import code
from adadagrad_kernels.integrations.samples_scheduler import SamplesScheduler

pytestmark = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore::UserWarning:lightning",
    "ignore:.set_vital. is deprecated:UserWarning",  # of torch, which torchdata reads
)


def _decayed(optimizer: Any, after_step: Callable[[int], None]) -> float:
    """The rate at the end of 80 samples, of which 20 steps were planned."""
    decides = controller()
    while decides.samples_seen < 80:
        optimizer.step()
        samples = decides.batch_size
        decides.step(samples)
        after_step(samples)
    return float(optimizer.param_groups[0]["lr"])


def test_step_scheduler() -> None:
    def linear() -> Any:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=20)

    by_steps, inside = linear(), linear()
    assert _decayed(by_steps.optimizer, lambda _: by_steps.step()) == pytest.approx(0.4)
    by_samples = adk.SamplesLR(inside, samples_per_step=4)
    assert _decayed(inside.optimizer, by_samples.step) == pytest.approx(0.0, abs=1e-12)
    (finding,) = integrations.doctor(by_steps.optimizer, by_steps)
    assert (finding.code, finding.where) == ("step-scheduler", "LinearLR: LinearLR")
    assert codes(inside.optimizer, by_samples) == []
    assert codes(SamplesScheduler(linear(), 4, controller())) == []
    accelerator = Accelerator(cpu=True)
    assert codes(accelerator.prepare(linear())) == ["step-scheduler"]
    accelerator.free_memory()


def test_a_schedule_that_does_not_read_its_argument_counts_something_else() -> None:
    decides = controller()
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    lr_lambda = torch.optim.lr_scheduler.LambdaLR
    assert codes(lr_lambda(optimizer, lambda _: 1.0 - decides.samples_seen / 80)) == []
    assert codes(lr_lambda(optimizer, lambda step: 1.0 - step / 80)) == ["step-scheduler"]


class _Callable:
    def __call__(self, step: int) -> float:
        return 1.0 / (step + 1)


@pytest.mark.parametrize(
    ("function", "reads"),
    [
        (lambda step: step * 2.0, True),
        (lambda _: 2.0, False),
        (lambda step: (lambda: step)(), True),
        (partial(lambda warmup, step: warmup, 3), False),
        (partial(lambda warmup, step: step / warmup, 3), True),
        (_Callable(), True),
        (_Callable().__call__, True),
        (abs, True),
    ],
)
def test_whether_a_function_reads_its_argument(function: Any, reads: bool) -> None:
    assert code.reads_its_argument(function) is reads


def test_named_state() -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = nn.Linear(2, 1)
    named = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(3, 2)).sum().backward()
    named.step()
    mended = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    mended.step()
    named.state["controller"] = {"batch_size": 8}
    with pytest.raises(KeyError):
        get_optimizer_state_dict(model, named)
    mended.param_groups[0]["batch_size"] = 8
    assert get_optimizer_state_dict(model, mended)
    assert codes(named) == ["named-state"]
    assert codes(mended) == []
