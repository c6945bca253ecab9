"""`linear_gradients` against autograd on the dense data."""

from __future__ import annotations

import pytest
import torch
from support.sparse_calls import compressed
from torch import Tensor

from adadagrad_kernels.ops import CsrRows
from adadagrad_kernels.statistics import linear_gradients


def _loss(name: str, z: Tensor, y: Tensor) -> Tensor:
    if name == "squares":
        return 0.5 * (z - y) ** 2
    return (1 + (-y * z).exp()).log() if name == "logistic" else torch.relu(1 - y * z)


def _case(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    data = (torch.randn(20, 13) * (torch.rand(20, 13) < 0.3)).to(dtype)
    data[4] = 0
    return torch.randn(13).to(dtype), data, torch.randn(20).sign()


@pytest.mark.parametrize("loss", ["logistic", "squares", "hinge"])
@pytest.mark.parametrize("kind", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_is_the_gradient_of_every_sample(loss: str, kind: torch.dtype, dtype: torch.dtype) -> None:
    weight, data, targets = _case(dtype)
    rows = CsrRows(*compressed(data, kind))
    result = linear_gradients(weight, rows, targets, loss)
    exact, dense = weight.double().requires_grad_(), data.double()
    close = {torch.bfloat16: 1e-2, torch.float32: 1e-5}.get(dtype, 1e-12)
    start = rows.crow_indices.tolist()
    for i in range(20):
        z = dense[i] @ exact
        value = _loss(loss, z, targets[i].double())
        (grad,) = torch.autograd.grad(value, exact)
        columns = rows.col_indices[start[i] : start[i + 1]].long()
        ours = result.gradients.values[start[i] : start[i + 1]].double()
        torch.testing.assert_close(ours, grad[columns], rtol=close, atol=close)
        assert not grad[dense[i] == 0].any()
        assert float(result.losses[i]) == pytest.approx(value.item(), rel=close, abs=close)
        assert float(result.margins[i]) == pytest.approx(z.item(), rel=close, abs=close)
    assert result.gradients.crow_indices is rows.crow_indices
    assert result.gradients.values.dtype == dtype


def test_large_margins_neither_overflow_nor_vanish() -> None:
    rows = CsrRows(torch.arange(5), torch.zeros(4, dtype=torch.long), torch.ones(4).double())
    rows.values[:] = torch.tensor([1000.0, -1000.0, 40.0, -40.0])
    result = linear_gradients(torch.ones(1).double(), rows, torch.ones(4))
    assert result.losses.tolist() == pytest.approx([0, 1000, 4.248354e-18, 40], rel=1e-6)
    assert result.gradients.values.tolist() == pytest.approx(
        [0, 1000, -40 * 4.248354e-18, 40], rel=1e-6
    )


def test_no_samples_and_flat_losses() -> None:
    empty = CsrRows(torch.zeros(1, dtype=torch.long), torch.zeros(0).long(), torch.zeros(0))
    assert len(linear_gradients(torch.ones(3), empty, torch.zeros(0)).losses) == 0
    rows = CsrRows(torch.tensor([0, 1]), torch.tensor([2]), torch.ones(1))
    flat = linear_gradients(torch.full((3,), 5.0), rows, torch.ones(1), "hinge")
    assert flat.gradients.values.tolist() == [0], "flat, but stored"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loss": "huber"}, "'huber'; accepted are logistic, squares, hinge"),
        (
            {"targets": torch.tensor([0.0, 1.0])},
            "targets has 0; accepted for the logistic loss are -1 and 1",
        ),
        (
            {"targets": torch.tensor([1.0, 2.0]), "loss": "hinge"},
            "has 2; accepted for the hinge loss",
        ),
        ({"targets": torch.tensor([1.0, float("nan")]), "loss": "squares"}, "finite numbers"),
        ({"targets": torch.ones(3)}, r"\(3,\); accepted is \(2,\)"),
        ({"weight": torch.ones(2)}, "0 to 1"),
        ({"weight": torch.ones(3).double()}, r"float64 on cpu; accepted is \[features\]"),
        ({"weight": torch.ones(3, 1)}, r"\(3, 1\)"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, str) else "",
)
def test_refusals(change: dict[str, object], words: str) -> None:
    rows = CsrRows(torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.ones(2))
    given = {"weight": torch.ones(3), "rows": rows, "targets": torch.ones(2)} | change
    with pytest.raises(ValueError, match=words):
        linear_gradients(**given)
