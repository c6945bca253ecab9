"""PerSampleGradients trains on the loss that it is given, or refuses it."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.zoo.entry import Model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import (
    PerSampleGradients,
    backward_with_statistics,
    layer_statistics,
)

B = 6
LABELS = torch.tensor([0, 1, 2, 0, 1, 1])
VALUES = torch.linspace(-1, 1, 3 * B).sin().view(B, 3)

#: Loss, targets, and whether it is a mean over the samples.
LOSSES: dict[str, tuple[Callable[[Any, Any], Tensor], Tensor, bool]] = {
    "cross entropy": (nn.CrossEntropyLoss(), LABELS, True),
    "label smoothing": (nn.CrossEntropyLoss(label_smoothing=0.1), LABELS, True),
    "squares": (nn.MSELoss(), VALUES, True),
    "divergence": (
        lambda a, t: F.kl_div(a.log_softmax(1), t.softmax(1), reduction="batchmean"), VALUES, True,
    ),
    "sum over the batch size": (
        lambda a, t: F.cross_entropy(a, t, reduction="sum") / len(t), LABELS, True,
    ),
    "class weights": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 10.0, 1.0])), LABELS, False),
    "a label left out": (nn.CrossEntropyLoss(ignore_index=2), LABELS, False),
    "a sum": (nn.CrossEntropyLoss(reduction="sum"), LABELS, False),
    "a sum of squares": (nn.MSELoss(reduction="sum"), VALUES, False),
    "a root of a mean": (lambda a, t: F.mse_loss(a, t).sqrt(), VALUES, False),
    "InfoNCE": (lambda a, t: F.cross_entropy(a @ t.T, torch.arange(len(a))), VALUES, False),
    "a scaled mean": (lambda a, t: F.mse_loss(a, t) * len(a), VALUES, False),
}  # fmt: skip


@pytest.mark.parametrize("chunk_size", [None, 4, 1])
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_the_loss(name: str, chunk_size: int | None) -> None:
    loss_fn, targets, is_mean = LOSSES[name]
    model, x = nn.Linear(3, 3), torch.randn(B, 3)
    plain = copy.deepcopy(model)
    loss_fn(plain(x), targets).backward()
    source = PerSampleGradients(model, loss_fn)
    source.chunk_size = chunk_size
    if is_mean:
        source.backward(x, targets)
        torch.testing.assert_close(model.weight.grad, plain.weight.grad)
        return
    with pytest.raises(ValueError, match=r"together.*own losses.*layer_statistics"):
        source.backward(x, targets)
    assert model.weight.grad is None
    with layer_statistics(model) as recorder:
        loss_fn(model(x), targets).backward()
        assert recorder.statistics().batch_size == B
    torch.testing.assert_close(model.weight.grad, plain.weight.grad)


def test_a_loss_whose_targets_come_to_be_left_out() -> None:
    """It is compared in every step, not in the first alone."""
    model = nn.Linear(3, 3)
    source = PerSampleGradients(model, nn.CrossEntropyLoss(ignore_index=2))
    source.backward(torch.randn(B, 3), LABELS.clamp(max=1))
    with pytest.raises(ValueError, match="leaves targets out"):
        source.backward(torch.randn(B, 3), LABELS)


def test_a_loss_that_draws_is_not_compared() -> None:
    """Its two values differ by what was drawn; random numbers go on as they would."""
    model = nn.Linear(3, 3)
    source = PerSampleGradients(model, lambda a, t: F.mse_loss(F.dropout(a, 0.5), t))
    with pytest.warns(UserWarning, match="draws random numbers.*could not be compared"):
        assert source.backward(torch.randn(B, 3), VALUES).batch_size == B


PENALISED = nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("model", "loss_fn"),
    [
        (nn.Linear(3, 3), lambda a, t: F.mse_loss(a, t) / F.mse_loss(a, t).detach()),
        (PENALISED, lambda a, t: F.mse_loss(a, t) + PENALISED.weight.square().sum()),
        (nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)), nn.MSELoss(reduction="sum")),
        (Model(lambda m, x: m.a(x).sum(1).squeeze(), a=nn.Linear(3, 3)), lambda a, t: a.sum()),
        (
            Model(lambda m, x: (m.a(x), x.mean()), a=nn.Linear(3, 3)),
            lambda a, t: F.mse_loss(a[0], t, reduction="sum"),
        ),
        (Model(lambda m, x: m.a(x).square().sum(), a=nn.Linear(3, 3)), lambda a, t: a),
    ],
    ids=["equal values", "a penalty", "dropout and a sum", "squeezed", "a scalar beside", "a loss"],
)
@pytest.mark.filterwarnings("ignore:.*could not be asked")
def test_the_gradient_is_compared_too(model: nn.Module, loss_fn: Any) -> None:
    with pytest.raises(ValueError, match="training would follow another gradient"):
        backward_with_statistics(model, loss_fn, torch.randn(B, 3), VALUES)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_that_mixes_samples() -> None:
    model = Model(lambda m, x: m.o(m.e(x) - m.e(x).mean(0)), e=nn.Linear(3, 4), o=nn.Linear(4, 3))
    with pytest.raises(UnsupportedModelError, match="mixes the samples"):
        backward_with_statistics(model, F.mse_loss, torch.randn(B, 3), VALUES)


def test_zeros_where_torch_has_zeros() -> None:
    """A parameter without an influence has a gradient of zeros; one that is not used has none."""

    def build() -> nn.Module:
        return Model(lambda m, x: m.a(x) + 0 * m.b(x), a=nn.Linear(3, 3), b=nn.Linear(3, 3),
                     c=nn.Linear(3, 3))  # fmt: skip

    for samples in (1, B):
        model = build()
        backward_with_statistics(model, F.mse_loss, torch.randn(samples, 3), VALUES[:samples])
        assert not model.b.weight.grad.any()
        assert model.c.weight.grad is None
        assert model.a.weight.grad.any()


def by_value(m: Any, x: Tensor) -> Tensor:
    return m.a(x) if float(x.sum()) > 0 else m.a(-x)


@pytest.mark.parametrize(
    ("run", "parts"),
    [
        (by_value, {"a": lambda: nn.Linear(3, 3)}),
        (
            lambda m, x: checkpoint(m.a, x, use_reentrant=False),
            {"a": lambda: nn.Linear(3, 3)},
        ),
        (
            lambda m, x: m.a(x.unsqueeze(1))[0][:, 0],
            {"a": lambda: nn.GRU(3, 3, batch_first=True)},
        ),
    ],
    ids=["control flow", "checkpoint", "GRU"],
)
def test_what_vmap_cannot_run(run: Any, parts: dict[str, Callable[[], nn.Module]]) -> None:
    """An error of the package's own; the first way out that it names works."""
    model = Model(run, **{name: part() for name, part in parts.items()})
    x = torch.rand(B, 3)
    with pytest.raises(UnsupportedModelError, match=r"vmap.*layer_statistics.*MicroBatch"):
        backward_with_statistics(model, F.mse_loss, x, VALUES)
    assert all(parameter.grad is None for parameter in model.parameters())
    with layer_statistics(model) as recorder:
        F.mse_loss(model(x), VALUES).backward()
        assert recorder.statistics().batch_size == B


def test_errors_of_the_model_are_its_own() -> None:
    """Not vmap's words for them."""
    model = nn.Linear(3, 3)
    with pytest.raises(IndexError, match=r"Target .* is out of bounds"):
        backward_with_statistics(model, F.cross_entropy, torch.randn(B, 3), LABELS + 6)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        backward_with_statistics(model, F.mse_loss, torch.randn(B, 4), VALUES)


def test_nothing_of_a_trace_is_kept() -> None:
    """Outputs of the samples, with the graph behind them, are gone after the pass."""
    seen: list[weakref.ref[Tensor]] = []

    def loss_fn(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(weakref.ref(outputs))
        return F.mse_loss(outputs, targets)

    source = PerSampleGradients(nn.Sequential(nn.Linear(3, 3), nn.Tanh()), loss_fn)
    source.backward(torch.randn(B, 3), VALUES)
    gc.collect()
    assert len(seen) > 1
    assert [ref() for ref in seen] == [None] * len(seen)
