"""Inner products in a second pass: by forward mode, and by per-sample gradients where it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import sample_models
from support.sample_loop import SampleLoop
from torch import Tensor, nn

from adadagrad_kernels.statistics import PerSampleGradients, sample_losses


class JvpCounter:
    """Counts forward-mode passes; with ``fails`` there are none, as for a layer without them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: bool = False) -> None:
        self.calls, self.fails, self.original = 0, fails, sample_losses.jvp
        sample_losses._load_forward_mode()
        monkeypatch.setattr(sample_losses, "jvp", self)

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        outputs = self.original(*arguments)
        if self.fails and self.calls % 2 == 0:
            raise NotImplementedError("no forward AD")
        return outputs


@pytest.mark.parametrize("name", sample_models.NAMES)
def test_inner_products_without_forward_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = JvpCounter(monkeypatch, fails=True)
    case = sample_models.make(name)
    source = PerSampleGradients(case.model, case.loss_fn, inner_products=True)
    source.chunk_size = 2
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    for _ in range(2):
        statistics = source.backward(case.inputs, case.targets)
        loop.check(statistics, inner_products=True, variance=False)
    assert counter.calls == 2  # the second chunk failed, and the second step did not try


def test_forward_mode_runs_once_per_chunk_and_only_where_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = JvpCounter(monkeypatch)
    case = sample_models.make("linear")
    source = PerSampleGradients(case.model, case.loss_fn, inner_products=True)
    source.backward(case.inputs, case.targets)
    assert counter.calls == 0
    source.chunk_size = 3
    source.backward(case.inputs, case.targets)
    assert counter.calls == 3
    case.model.to(torch.bfloat16)
    source.backward(case.inputs.bfloat16(), case.targets.bfloat16())
    assert counter.calls == 3


def test_memory_exhausted_in_forward_mode_is_not_taken_for_a_missing_formula(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(*_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    sample_losses._load_forward_mode()
    monkeypatch.setattr(sample_losses, "jvp", exhausted)
    case = sample_models.make("linear")
    source = PerSampleGradients(case.model, case.loss_fn, inner_products=True)
    source.chunk_size = 3
    with pytest.raises(torch.OutOfMemoryError):
        source.backward(case.inputs, case.targets)
    assert case.model.weight.grad is None


class WithoutForwardMode(torch.autograd.Function):
    """Doubles, and has only a backward formula."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad


class Doubling(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return WithoutForwardMode.apply(super().forward(x))


def test_a_layer_that_has_no_forward_mode() -> None:
    case = sample_models.make("linear")
    model = Doubling(3, 2, dtype=torch.float64)
    source = PerSampleGradients(model, case.loss_fn, inner_products=True)
    source.chunk_size = 3
    statistics = source.backward(case.inputs, case.targets)
    loop = SampleLoop.run(model, case.loss_fn, case.inputs, case.targets)
    loop.check(statistics, inner_products=True, variance=False)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "model",
    [
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        nn.LSTM(4, 4, batch_first=True),
    ],
    ids=["fused attention", "lstm"],
)
def test_layers_of_torch_that_have_no_forward_mode(model: nn.Module) -> None:
    def loss_fn(output: Tensor | tuple[Tensor, Any], targets: Tensor) -> Tensor:
        return F.mse_loss(output if isinstance(output, Tensor) else output[0], targets)

    case = sample_models.make("attention")
    inputs, targets = case.inputs.float(), case.targets.float()
    source = PerSampleGradients(model, loss_fn, inner_products=True)
    source.chunk_size = 3
    statistics = source.backward(inputs, targets)
    loop = SampleLoop.run(model, loss_fn, inputs, targets)
    loop.check(statistics, inner_products=True, variance=False, rtol=1e-6)


@pytest.mark.parametrize("fails", [False, True], ids=["forward mode", "second pass"])
def test_second_pass_repeats_the_draws(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    counter = JvpCounter(monkeypatch, fails)
    model = nn.Sequential(nn.Linear(3, 20), nn.Dropout(0.5), nn.Linear(20, 2)).double()
    inputs, targets = torch.randn(9, 3).double(), torch.randn(9, 2).double()
    source = PerSampleGradients(model, F.mse_loss, inner_products=True)
    source.chunk_size = 4
    torch.manual_seed(5)
    statistics = source.backward(inputs, targets)
    drawn_after = torch.rand(1)
    assert counter.calls == (2 if fails else 3)
    assert statistics.inner_products is not None
    total = statistics.inner_products.sum().item()
    assert total == pytest.approx(9 * statistics.mean_sq_norm, rel=1e-10)

    source.inner_products = False
    torch.manual_seed(5)
    without = source.backward(inputs, targets)
    assert without.mean_sq_norm == pytest.approx(statistics.mean_sq_norm, rel=1e-12)
    assert torch.equal(torch.rand(1), drawn_after)
    assert source.backward(inputs, targets).mean_sq_norm != without.mean_sq_norm


def test_directional_derivatives() -> None:
    case = sample_models.make("attention")
    loop = SampleLoop.run(case.model, case.loss_fn, case.inputs, case.targets)
    direction = torch.randn(loop.rows.shape[1], dtype=torch.float64)
    source = PerSampleGradients(case.model, case.loss_fn)
    source.chunk_size = 3
    found = source.directional_derivatives(case.inputs, case.targets, loop.by_name(direction))
    torch.testing.assert_close(found, loop.rows @ direction)
    assert all(p.grad is None for p in case.model.parameters())
    with pytest.raises(ValueError, match="direction must have the shapes of the parameters"):
        source.directional_derivatives(case.inputs, case.targets, {"weight": direction})


def test_autocast_uses_per_sample_gradients_for_inner_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counter = JvpCounter(monkeypatch)
    model, inputs, targets = nn.Linear(3, 2), torch.randn(6, 3), torch.randn(6, 2)
    source = PerSampleGradients(
        model, lambda output, target: F.mse_loss(output.float(), target), inner_products=True
    )
    source.chunk_size = 2
    with torch.autocast("cpu", torch.bfloat16):
        statistics = source.backward(inputs, targets)
    assert counter.calls == 0
    assert statistics.inner_products is not None
    total = statistics.inner_products.sum().item()
    assert total == pytest.approx(6 * statistics.mean_sq_norm, rel=1e-6)
