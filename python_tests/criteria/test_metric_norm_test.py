"""MetricNormTest: its sums written out, the metric it reads, and refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adadagrad_kernels import optim
from adadagrad_kernels.criteria import MetricNormTest, NormTest
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.statistics import GradientStatistics, PerSampleGradients

ETA = 0.3


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)).double()


def measure(module: nn.Module, samples: int = 7) -> tuple[GradientStatistics, Tensor, list[str]]:
    """The record, and the samples' gradients as rows, by plain backward passes."""
    inputs, targets = torch.randn(samples, 5).double(), torch.randn(samples, 2).double()
    loss_fn = nn.MSELoss()
    names = [name for name, p in module.named_parameters() if p.requires_grad]
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        grads = torch.autograd.grad(
            loss_fn(module(x[None]), y[None]),
            [p for p in module.parameters() if p.requires_grad],
        )
        rows.append(torch.cat([g.flatten() for g in grads]))
    module.zero_grad()
    source = PerSampleGradients(module, loss_fn, variance=True)
    return source.backward(inputs, targets), torch.stack(rows), names


def expected(rows: Tensor, weights: Tensor, eta: float = ETA) -> float:
    total_noise = total_signal = 0.0
    for j in range(rows.shape[1]):
        mean = sum(rows[:, j].tolist()) / len(rows)
        variance = sum((value - mean) ** 2 for value in rows[:, j].tolist()) / (len(rows) - 1)
        total_noise += float(weights[j]) * variance
        total_signal += float(weights[j]) * mean * mean
    return total_noise / (eta**2 * total_signal)


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, optim.Adagrad])
@pytest.mark.parametrize("start", [0.0, 0.25])
def test_adagrad(kind: Any, start: float) -> None:
    module = model()
    optimizer = kind(module.parameters(), lr=0.1, initial_accumulator_value=start, eps=1e-3)
    test = MetricNormTest(ETA, "adagrad", optimizer, module.named_parameters())
    sums = torch.full((sum(p.numel() for p in module.parameters()),), start).double()
    for _ in range(3):
        statistics, rows, _ = measure(module)
        before = test(statistics).batch_size
        assert before == pytest.approx(expected(rows, 1 / (sums.sqrt() + 1e-3)), rel=1e-9)
        optimizer.step()
        sums += rows.mean(0).square()
        decision = test(statistics)
        wanted = expected(rows, 1 / (sums.sqrt() + 1e-3))
        assert decision.criterion == "metric_norm_test"
        assert decision.batch_size == pytest.approx(wanted, rel=1e-9)
        assert decision.passed == (wanted <= 7)
        assert decision.smallest_constants["eta"] == pytest.approx(ETA * (wanted / 7) ** 0.5)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"capturable": False, "foreach": True}])
def test_adam(kind: Any, options: dict[str, bool]) -> None:
    module = model()
    optimizer = kind(module.parameters(), lr=0.1, betas=(0.9, 0.6), eps=1e-3, **options)
    test = MetricNormTest(ETA, "adam", optimizer, dict(module.named_parameters()))
    squares = largest = 0.0
    for step in range(1, 5):
        statistics, rows, _ = measure(module)
        if step == 1:
            without = NormTest(ETA)(statistics).batch_size
            assert test(statistics).batch_size == pytest.approx(without, rel=1e-9)
        optimizer.step()
        squares = 0.6 * squares + 0.4 * rows.mean(0).square()
        largest = torch.maximum(torch.as_tensor(largest), squares)
        used = largest if options.get("amsgrad") else squares
        weights = 1 / ((used / (1 - 0.6**step)).sqrt() + 1e-3)
        assert test(statistics).batch_size == pytest.approx(expected(rows, weights), rel=1e-6)


def test_sign() -> None:
    module = model()
    test = MetricNormTest(ETA, "sign")
    statistics, rows, _ = measure(module)
    deviations = sum(float(column.std()) for column in rows.T)
    means = sum(abs(float(column.mean())) for column in rows.T)
    wanted = deviations**2 / (ETA**2 * means**2)
    assert test(statistics).batch_size == pytest.approx(wanted, rel=1e-9)


def test_equal_sums_give_the_norm_test(batch: GradientStatistics) -> None:
    params = {"weight": nn.Parameter(torch.zeros(3)), "bias": nn.Parameter(torch.zeros(2))}
    optimizer = torch.optim.Adagrad(params.values(), initial_accumulator_value=7.0)
    decision = MetricNormTest(0.5, "adagrad", optimizer, params)(batch)
    assert decision.batch_size == pytest.approx(15.00101, abs=5e-6)


def test_it_is_another_test_where_coordinates_differ() -> None:
    """All noise in a coordinate that AdaGrad has slowed down."""
    params = {"w": nn.Parameter(torch.zeros(2))}
    optimizer = torch.optim.Adagrad(params.values(), eps=0.0)
    optimizer.state[params["w"]]["sum"] = torch.tensor([10000.0, 1.0])
    statistics = GradientStatistics(
        4,
        2.0,
        4 * 2.0 + 3 * 8.0,
        variance={"w": torch.tensor([8.0, 0.0])},
        mean_gradient={"w": torch.tensor([1.0, 1.0])},
    )
    assert NormTest(1.0)(statistics).batch_size == 4.0
    found = MetricNormTest(1.0, "adagrad", optimizer, params)(statistics).batch_size
    assert found == pytest.approx(0.08 / 1.01)


def test_parameters_that_do_not_move_yet_are_left_out() -> None:
    module = model()
    optimizer = torch.optim.Adam(module.parameters(), eps=1e-3)
    module[0].requires_grad_(False)
    _, rows, _ = measure(module)
    optimizer.step()
    module[0].requires_grad_(True)
    statistics, rows, names = measure(module)
    assert names[0] == "0.weight"
    trained = rows[:, 24:]
    sums = torch.cat([optimizer.state[p]["exp_avg_sq"].flatten() for p in module[2].parameters()])
    weights = 1 / ((sums / (1 - 0.999)).sqrt() + 1e-3)
    test = MetricNormTest(ETA, "adam", optimizer, module.named_parameters())
    assert test(statistics).batch_size == pytest.approx(expected(trained, weights), rel=1e-6)
    assert all(p not in optimizer.state for p in module[0].parameters())


def test_a_frozen_parameter_is_not_asked_for() -> None:
    module = model()
    module[0].requires_grad_(False)
    optimizer = torch.optim.Adagrad(module[2].parameters(), lr=0.1, eps=1e-3)
    test = MetricNormTest(ETA, "adagrad", optimizer, module.named_parameters())
    statistics, rows, _ = measure(module)
    optimizer.step()
    weights = 1 / (rows.mean(0).abs() + 1e-3)
    assert test(statistics).batch_size == pytest.approx(expected(rows, weights), rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "metric", "keeps"),
    [
        (torch.optim.Adam, "adagrad", r"\['sum'\].*Adam keeps \['exp_avg', 'exp_avg_sq', 'step'\]"),
        (torch.optim.Adagrad, "adam", r"\['exp_avg_sq', 'step'\].*Adagrad keeps \['step', 'sum'\]"),
        (optim.AdagradNorm, "adagrad", r"\(4, 5\), and AdagradNorm keeps \(\);.*use NormTest"),
    ],
)
def test_the_state_of_another_optimizer(kind: Any, metric: str, keeps: str) -> None:
    module = model()
    optimizer = kind(module.parameters())
    test = MetricNormTest(0.5, metric, optimizer, module.named_parameters())
    statistics, _, _ = measure(module)
    optimizer.step()
    with pytest.raises(ValueError, match=keeps):
        test(statistics)


def test_parameters_that_do_not_fit() -> None:
    module = model()
    optimizer = torch.optim.Adagrad(module[0].parameters())
    statistics, _, _ = measure(module)
    named = dict(module.named_parameters())
    few = {name: p for name, p in named.items() if name != "2.bias"}
    with pytest.raises(ValueError, match=r"not given: \['2\.bias'\]; pass parameters=model"):
        MetricNormTest(0.5, "adagrad", optimizer, few)(statistics)
    with pytest.raises(ValueError, match=r"Adagrad\) does not hold.*'2\.bias', '2\.weight'"):
        MetricNormTest(0.5, "adagrad", optimizer, named)(statistics)
    test = MetricNormTest(0.5, "sign")
    with pytest.raises(MissingStatisticError, match="variance=True"):
        test(replace(statistics, variance=None))
    with pytest.raises(MissingStatisticError, match="mean_gradient"):
        test(replace(statistics, mean_gradient=None))
