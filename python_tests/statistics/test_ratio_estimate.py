"""How well V_ip / N² and V_orth / N are known: derivatives by autograd, sources, coverage."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from adadagrad_kernels import (
    AugmentedInnerProductTest,
    BatchController,
    GradientStatistics,
    InnerProductTest,
    MissingStatisticError,
    PerSampleGradients,
    layer_statistics,
)
from adadagrad_kernels.statistics.ratio_estimate import RatioEstimate, ratio_estimates


def gaussian(samples, features=20, signal=1.0, seed=0):
    """Gradients with the spectrum 1/k, and what the ratios of a batch are on average."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = 1.0 / torch.arange(1, features + 1, dtype=torch.float64)
    mean = torch.full((features,), signal / math.sqrt(features), dtype=torch.float64)
    noise = torch.randn(*samples, features, generator=generator, dtype=torch.float64)
    b = samples[-1]
    square = signal**2 + spectrum.sum().item() / b
    # The sample covariance and the mean of Gaussians are independent.
    along = ((spectrum * mean.square()).sum() + spectrum.square().sum() / b).item()
    truths = along / square**2, (spectrum.sum().item() - along / square) / square
    return mean + noise * spectrum.sqrt(), truths


def vectors(rows):
    mean = rows.mean(0)
    products = rows @ mean
    turned = ((products - products.mean()) / (len(rows) - 1)) @ rows
    return rows.square().sum(1), products, rows @ turned


def record_of(rows):
    s, p, q = vectors(rows)
    return GradientStatistics(
        len(rows),
        rows.mean(0).square().sum().item(),
        s.sum().item(),
        sq_norms=s,
        inner_products=p,
        sum_sq_inner_products=p.square().sum().item(),
        covariance_products=q,
    )


def test_the_variances_are_those_of_the_derivatives_by_weight():
    """Of the ratios as functions of the samples' weights, by autograd."""
    rows, _ = gaussian((37,))
    b = len(rows)

    def ratios(weights):
        weights = weights / weights.sum()
        mean = weights @ rows
        centred = rows - mean
        along = weights @ (centred @ mean).square()
        whole = weights @ centred.square().sum(1)
        signal = mean.square().sum()
        return torch.stack([along / signal**2, (whole - along / signal) / signal]) * b / (b - 1)

    uniform = torch.full((b,), 1.0, dtype=torch.float64)
    derivatives = torch.autograd.functional.jacobian(ratios, uniform) * b
    record = record_of(rows)
    for estimate, value, changes in zip(
        record.ratio_estimates, ratios(uniform), derivatives, strict=True
    ):
        assert estimate.value == pytest.approx(value.item(), rel=1e-12)
        expected = changes.square().sum().item() / (b * (b - 1))
        assert estimate.variance == pytest.approx(expected, rel=1e-10)
    along, across = record.ratio_estimates
    signal = record.mean_sq_norm
    assert along.value == pytest.approx(record.inner_product_variance / signal**2)
    assert across.value == pytest.approx(record.orthogonal_variance / signal)


def test_sources_measure_the_products_with_the_covariance():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    inputs, targets = torch.randn(11, 4).double(), torch.randn(11, 2).double()
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        grads = torch.autograd.grad(mse_loss(model(x), y), tuple(model.parameters()))
        rows.append(torch.cat([grad.flatten() for grad in grads]))
    rows = torch.stack(rows)
    expected = rows @ (torch.cov(rows.T) @ rows.mean(0))

    def losses():
        return (model(inputs) - targets).square().mean(1)

    for cuts in ([11], [4, 7]):
        model.zero_grad()
        with layer_statistics(model, inner_products=True) as recorder:
            for x, y in zip(inputs.split(cuts), targets.split(cuts), strict=True):
                (mse_loss(model(x), y) * len(x) / 11).backward()
            before = [p.grad.clone() for p in model.parameters()]
            record = recorder.statistics(losses=losses, covariance_products=True)
        torch.testing.assert_close(record.covariance_products, expected, rtol=1e-9, atol=1e-14)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    for chunk in (None, 3):
        source = PerSampleGradients(
            model, mse_loss, inner_products=True, covariance_products=True, ranks="local"
        )
        source.chunk_size = chunk
        record = source.backward(inputs, targets)
        torch.testing.assert_close(record.covariance_products, expected, rtol=1e-9, atol=1e-14)
    assert record.covariance_products.mean().item() == pytest.approx(record.inner_product_variance)
    estimates = ratio_estimates(*vectors(rows))
    assert record.ratio_estimates[0].variance == pytest.approx(estimates[0].variance, rel=1e-8)
    assert record.merge(record).covariance_products is None


def coverage(samples, signal, batches):
    rows, truths = gaussian((batches, samples), signal=signal)
    tests = InnerProductTest(0.5), AugmentedInnerProductTest(0.9, 0.8)
    sizes = [truths[0] / 0.25, max(truths[0] / 0.81, truths[1] / 0.64)]
    held = [0] * 4
    for each in rows:
        record = record_of(each)
        intervals = [estimate.interval() for estimate in record.ratio_estimates]
        intervals += [test.interval(record, 0.95) for test in tests]
        for place, ((low, high), truth) in enumerate(
            zip(intervals, [*truths, *sizes], strict=True)
        ):
            held[place] += low <= truth <= high
    return [count / batches for count in held]


def test_intervals_of_a_clear_signal_hold_the_truth_in_95_of_100():
    batches = 2_000
    deviation = math.sqrt(0.95 * 0.05 / batches)
    for share in coverage(256, 2.0, batches):
        assert share == pytest.approx(0.95, abs=3 * deviation)


@pytest.mark.parametrize(("samples", "signal"), [(64, 0.5), (256, 0.5), (64, 0.05)])
def test_intervals_where_noise_matters_hold_it_nearly_so(samples, signal):
    """Neither ratio is linear in a mean gradient that noise turns."""
    for share in coverage(samples, signal, 500):
        assert 0.87 <= share <= 1.0


def test_the_controller_gives_the_interval_of_its_size(caplog):
    record = record_of(gaussian((64,), signal=2.0)[0])
    for test in (InnerProductTest(0.1), AugmentedInnerProductTest(0.9, 0.1)):
        controller = BatchController(test, batch_size=64, max_batch_size=10**6, error_bars=0.9)
        controller.update(record)
        metrics = controller.metrics()
        low, high = metrics["batch/suggested_low"], metrics["batch/suggested_high"]
        assert (low, high) == test.interval(record, 0.9)
        assert low < metrics["batch/suggested"] < high
    assert not caplog.records
    smoothed = BatchController(
        InnerProductTest(0.1), batch_size=64, max_batch_size=10**6, error_bars=0.9, smoothing=0.5
    )
    smoothed.update(record)
    assert "batch/suggested_low" not in smoothed.metrics()
    assert "without smoothing" in caplog.text


def test_what_is_refused():
    rows, _ = gaussian((8,))
    bare = GradientStatistics(8, 1.0, 9.0)
    with pytest.raises(MissingStatisticError, match=r"covariance_products=True\), in one process"):
        _ = bare.ratio_estimates
    assert InnerProductTest(0.5).interval(bare, 0.9) is None
    assert InnerProductTest(0.5, layerwise=True).interval(record_of(rows), 0.9) is None
    with pytest.raises(ValueError, match="at least 4 samples, and this batch has 3"):
        _ = record_of(rows[:3]).ratio_estimates
    assert RatioEstimate(8, 0.0, 0.0).interval() == (0.0, 0.0)
    assert RatioEstimate(8, 1e-9, 1.0).interval()[1] == math.inf
    model = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="covariance_products need inner_products=True"):
        PerSampleGradients(model, mse_loss, covariance_products=True)
    with layer_statistics(model, inner_products=True) as recorder:
        model(torch.randn(4, 3)).square().mean().backward()
        with pytest.raises(ValueError, match=r"covariance_products need statistics\(losses"):
            recorder.statistics(covariance_products=True)
