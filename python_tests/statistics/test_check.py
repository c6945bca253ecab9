"""``check_statistics`` says right what is right, finds planted faults, and prints a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.zoo.entry import Model
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels import check_statistics
from adadagrad_kernels.statistics import GradientStatistics, layer_statistics

B = 5

Batch = tuple[Tensor, Tensor]


def network() -> nn.Module:
    return Model(lambda m, x: m.b(m.a(x).tanh()), a=nn.Linear(3, 4), b=nn.Linear(4, 2))


def batch() -> Batch:
    return torch.randn(B, 3), torch.randn(B, 2)


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def test_a_model_that_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    check = check_statistics(network(), batch(), loss)
    printed = capsys.readouterr().out
    assert check.ok
    assert check.samples == B
    assert max(row.error for row in check.rows) < 1e-5
    quantities = {row.quantity for row in check.rows}
    assert {"loss", ".grad", "squared norms", "variances", "inner products"} <= quantities
    assert all(quantity in printed for quantity in quantities)
    assert "WRONG" not in printed


@pytest.mark.parametrize(
    ("quantity", "plant"),
    [
        ("squared norms", lambda r: replace(r, sq_norms=1.01 * r.sq_norms)),
        ("variances", lambda r: replace(r, variance={n: v * 1.01 for n, v in r.variance.items()})),
        ("inner products", lambda r: replace(r, inner_products=r.inner_products.flip(0))),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(
    quantity: str,
    plant: Callable[[Any], GradientStatistics],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    statistics = layer_statistics.statistics

    def faulty(self: layer_statistics, *args: Any, **kwargs: Any) -> GradientStatistics:
        return plant(statistics(self, *args, **kwargs))

    monkeypatch.setattr(layer_statistics, "statistics", faulty)
    check = check_statistics(network(), batch(), loss)
    assert not check.ok
    assert [row.quantity for row in check.rows if not row.ok] == [quantity]
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_under_autocast_the_outputs_say_what_is_rounding(half: torch.dtype) -> None:
    def narrow(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", half):
            return loss(model, batch)

    check = check_statistics(network(), batch(), narrow, show=False)
    assert check.ok
    assert all(row.allowed > 1e-2 for row in check.rows)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="draws random numbers"):
        check_statistics(nn.Sequential(network(), nn.Dropout()), batch(), loss)
    with pytest.raises(
        ValueError,
        match=r"hold 0 samples; accepted are tensors .* with at least one: pass samples=",
    ):
        check_statistics(network(), (), loss)
    with pytest.raises(ValueError, match="mean of the samples' own losses"):
        check_statistics(
            network(), batch(), lambda m, b: (m(b[0]) - m(b[0]).mean(0)).square().mean()
        )


def test_the_model_is_left_alone() -> None:
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_statistics(model, batch(), loss, show=False)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())
