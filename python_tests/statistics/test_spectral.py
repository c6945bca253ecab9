"""The noise of spectral descent: against singular values, the formula, and known expectations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics import GradientStatistics, MicroBatchGradients
from adadagrad_kernels.statistics.spectral import (
    root_trace,
    root_trace_by_products,
    shorter_product,
)


def turned(values: Tensor, rows: int, columns: int) -> Tensor:
    """A matrix with these singular values."""
    left, right = (torch.linalg.qr(torch.randn(n, n).double())[0] for n in (rows, columns))
    return left[:, : len(values)] * values @ right[: len(values)]


MATRICES = {
    "wide": lambda: torch.randn(24, 90).double(),
    "tall": lambda: torch.randn(90, 24).double(),
    "square": lambda: torch.randn(64, 64).double(),
    "one row": lambda: torch.randn(1, 33).double(),
    "one column": lambda: torch.randn(33, 1).double(),
    "rank 1": lambda: turned(torch.ones(1), 120, 130),
    "rank 3 of 64": lambda: turned(torch.tensor([3.0, 1.0, 0.1]).double(), 64, 70),
    "slowly decaying": lambda: turned(1 / torch.arange(1.0, 65.0).double(), 64, 64),
    "quickly decaying": lambda: turned(0.5 ** torch.arange(64.0).double(), 64, 64),
    "large": lambda: torch.randn(16, 20).double() * 1e15,
    "small": lambda: torch.randn(16, 20).double() * 1e-15,
}


@pytest.mark.parametrize("kind", MATRICES)
def test_nuclear_norms_are_those_of_the_singular_values(kind: str) -> None:
    torch.manual_seed(0)
    matrix = MATRICES[kind]()
    expected = torch.linalg.svdvals(matrix).sum().item()
    assert root_trace(shorter_product(matrix)).item() == pytest.approx(expected, rel=1e-6)
    by_products = root_trace_by_products(shorter_product(matrix))
    assert by_products.item() == pytest.approx(expected, rel=1e-3)
    # As on a GPU, where the product too is in float32.
    matrix = matrix.float()
    narrow = matrix @ matrix.t() if len(matrix) <= matrix.shape[1] else matrix.t() @ matrix
    assert root_trace_by_products(narrow).item() == pytest.approx(expected, rel=2e-3)


def test_zeros_have_no_root_and_what_is_not_finite_shows() -> None:
    for root in (root_trace, root_trace_by_products):
        assert root(torch.zeros(3, 3)).item() == 0.0
        assert root(torch.zeros(1, 1)).item() == 0.0
        assert math.isnan(root(torch.tensor([[1.0, 0.0], [0.0, math.nan]])).item())
        assert math.isnan(root(torch.tensor([[1.0, 0.0], [0.0, math.inf]])).item())


class Sum(nn.Module):
    """The gradient of the mean output is the mean of the inputs, ``[samples, rows, columns]``."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(rows, dtype=torch.float64))

    def forward(self, given: Tensor) -> Tensor:
        return (given * self.weight).sum((1, 2)) + (given[:, :, 0] * self.bias).sum(1)


def measured(parts: list[Tensor], loss_scale: float = 1.0) -> GradientStatistics:
    """The record of micro-batches with these per-sample gradients of the weight."""
    model = Sum(*parts[0].shape[1:])
    source = MicroBatchGradients(model, matrices=["weight"])
    samples = sum(map(len, parts))
    for part in parts:
        with source.micro_batch(samples=len(part)):
            (loss_scale * model(part).mean() * len(part) / samples).backward()
    return source.result(grad_scale=loss_scale)


@pytest.mark.parametrize("loss_scale", [1.0, 1024.0])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (1, 6), (6, 1)], ids=str)
@pytest.mark.parametrize("sizes", [(1,) * 9, (2, 3, 4, 1), (3, 3)], ids=str)
def test_the_record_has_the_formula(
    sizes: tuple[int, ...], shape: tuple[int, int], loss_scale: float
) -> None:
    torch.manual_seed(1)
    parts = [torch.randn(size, *shape, dtype=torch.float64) + 0.3 for size in sizes]
    mean = torch.cat(parts).mean(0)
    deviations = [part.mean(0) - mean for part in parts]
    if shape[0] > shape[1]:
        deviations = [deviation.t() for deviation in deviations]
    covariance = sum(len(p) * d @ d.t() for p, d in zip(parts, deviations, strict=True))
    eigenvalues = torch.linalg.eigvalsh(covariance / (len(parts) - 1)).clamp_min(0)
    record = measured(parts, loss_scale).require_spectral()
    assert list(record) == ["weight"]
    # Eigenvalues that are zero are so to the rounding of their matrix.
    expected = eigenvalues.sqrt().sum().item()
    assert record["weight"].noise == pytest.approx(expected, rel=1e-6)
    expected = torch.linalg.svdvals(mean).sum().item()
    assert record["weight"].signal == pytest.approx(expected, rel=1e-9)


def test_of_gaussian_gradients_it_is_what_is_known() -> None:
    """Rows with standard deviations a_r and independent elements: S = columns diag(a^2)."""
    torch.manual_seed(2)
    spread = torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=torch.float64)[:, None]
    parts = [3.0 + spread * torch.randn(4, 4, 50, dtype=torch.float64) for _ in range(64)]
    record = measured(parts)
    weight = record.require_spectral()["weight"]
    bound = math.sqrt(50) * spread.sum().item()
    assert weight.noise == pytest.approx(bound, rel=0.02)
    assert weight.signal == pytest.approx(3 * math.sqrt(4 * 50), rel=0.05)
    # What it bounds, by 200 draws, is less and not far off.
    deviations = spread * torch.randn(200, 4, 50, dtype=torch.float64)
    found = torch.linalg.svdvals(deviations).sum(1).mean().item()
    assert 0.97 < found / bound < 1.0


def test_other_parameters_and_other_sources_have_none() -> None:
    parts = [torch.randn(2, 3, 4, dtype=torch.float64) for _ in range(4)]
    model = Sum(3, 4)
    source = MicroBatchGradients(model)
    for part in parts:
        with source.micro_batch(samples=2):
            (model(part).mean() / 4).backward()
    assert source.result().spectral is None
    with pytest.raises(ValueError, match=r"'bias' has the shape \(3,\); accepted are 'weight'"):
        MicroBatchGradients(model, matrices=["bias"])
    with pytest.raises(ValueError, match="'head' is none; accepted are 'weight'"):
        MicroBatchGradients(model, matrices=["head"])


def test_a_matrix_that_no_sample_reaches_adds_nothing() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 2), "left": nn.Linear(3, 2)}).double()
    source = MicroBatchGradients(model, matrices=["used.weight", "left.weight"])
    for _ in range(3):
        with source.micro_batch(samples=2):
            model["used"](torch.randn(2, 3, dtype=torch.float64)).square().mean().backward()
    record = source.result().require_spectral()
    assert record["used.weight"].noise > 0
    assert (record["left.weight"].noise, record["left.weight"].signal) == (0.0, 0.0)
