"""The jackknife written out sample by sample, and how often its intervals hold the truth."""

from __future__ import annotations

import math

import pytest
import torch

from adadagrad_kernels.batching import BatchController
from adadagrad_kernels.criteria import (
    AugmentedInnerProductTest,
    CoordinateNormTest,
    GradientNoiseScale,
    GradientSimilarity,
    InnerProductTest,
    MetricNormTest,
    NormTest,
)
from adadagrad_kernels.errors import MissingStatisticError
from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import (
    GradientStatistics,
    NoiseEstimate,
    SampleSpread,
    layer_statistics,
)
from adadagrad_kernels.statistics.noise_estimate import RunningNoise, moments_of, quantile


def rows_of(samples, features=20, signal=1.0, seed=0):
    """Gaussian per-sample gradients with a decaying spectrum: V = sum 1/k, |G| = signal."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = 1.0 / torch.arange(1, features + 1, dtype=torch.float64)
    mean = torch.full((features,), signal / math.sqrt(features), dtype=torch.float64)
    noise = torch.randn(samples, features, generator=generator, dtype=torch.float64)
    return mean + noise * spectrum.sqrt(), spectrum.sum().item(), signal**2


def record_of(rows):
    return GradientStatistics.from_moments({"w": batch_moments(rows)})


def jackknife(rows, value):
    """The covariance of a vector of statistics, leaving every sample out once."""
    b = len(rows)
    left_out = torch.stack([value(torch.cat([rows[:j], rows[j + 1 :]])) for j in range(b)])
    return torch.cov(left_out.T, correction=0) * (b - 1)


def noise_and_signal(rows):
    noise = rows.var(0).sum()
    return torch.stack([noise, rows.mean(0).square().sum() - noise / len(rows)])


@pytest.mark.parametrize("samples", [4, 5, 33])
def test_it_is_the_jackknife_of_the_rows(samples):
    rows, _, _ = rows_of(samples)
    found = record_of(rows).noise_estimate
    expected = noise_and_signal(rows)
    assert [found.noise, found.signal] == pytest.approx(expected.tolist())
    covariance = jackknife(rows, noise_and_signal)
    assert found.noise_variance == pytest.approx(covariance[0, 0].item())
    assert found.signal_variance == pytest.approx(covariance[1, 1].item())
    assert found.covariance == pytest.approx(covariance[0, 1].item())


@pytest.mark.parametrize("cuts", [[12, 21], [1, 1, 31], [11, 11, 11]])
def test_micro_batches_and_ranks_add_up_exactly(cuts):
    """With their inner products with the mean of all; also where the norms are far from 0."""
    rows, _, _ = rows_of(33)
    rows = rows + 1e3
    mean = rows.mean(0)
    parts = [SampleSpread.of(part.square().sum(1), part @ mean) for part in rows.split(cuts)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    whole = record_of(rows)
    record = GradientStatistics(len(rows), whole.mean_sq_norm, whole.sum_sq_norms, spread=total)
    for name in ("noise_variance", "signal_variance", "covariance"):
        expected = getattr(whole.noise_estimate, name)
        assert getattr(record.noise_estimate, name) == pytest.approx(expected, rel=1e-6)


def test_a_source_gives_them_in_its_one_pass():
    torch.manual_seed(0)
    model = torch.nn.Linear(5, 3).double()
    inputs, targets = torch.randn(9, 5).double(), torch.randn(9, 3).double()
    loss = torch.nn.functional.mse_loss
    with layer_statistics(model, inner_products=True) as source:
        loss(model(inputs), targets).backward()
        record = source.statistics()
    rows = []
    for x, y in zip(inputs, targets, strict=True):
        found = torch.autograd.grad(loss(model(x), y), tuple(model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    gradients = torch.stack(rows)
    covariance = jackknife(gradients, noise_and_signal)
    assert record.noise_estimate.signal_variance == pytest.approx(covariance[1, 1].item())


@pytest.mark.parametrize(("samples", "signal"), [(16, 2.0), (64, 0.5), (64, 0.05), (256, 0.3)])
def test_the_intervals_hold_the_truth_as_often_as_they_say(samples, signal):
    """Of 95 %: 93 to 99.9 in 1,500 batches; the jackknife is not too small on average."""
    batches = 1_500
    rows, noise, square = rows_of(samples * batches, signal=signal)
    rows = rows.view(batches, samples, -1)
    mean = rows.mean(1)
    norms, products = rows.square().sum(2), torch.einsum("kbf,kf->kb", rows, mean)
    held = {"noise": 0, "signal": 0, "scale": 0, "size": 0}
    size = noise / (square + noise / samples) / 0.25
    for s, p in zip(norms, products, strict=True):
        estimate = SampleSpread.of(s, p).estimate()
        test = NormTest(0.5)
        sizes = [test.size_at(end, samples) for end in estimate.scale_interval()]
        intervals = {
            "noise": (*estimate.noise_interval(), noise),
            "signal": (*estimate.signal_interval(), square),
            "scale": (*estimate.scale_interval(), noise / square),
            "size": (*sizes, size),
        }
        for name, (low, high, truth) in intervals.items():
            held[name] += low <= truth <= high
    for name, count in held.items():
        assert 0.93 <= count / batches <= 0.999, (name, count / batches)


def test_norms_of_ranks_are_scaled_as_they_are_added():
    """By the square of what turns contributions to .grad into gradients."""
    rows, _, _ = rows_of(20)
    s, p = rows.square().sum(1), rows @ rows.mean(0)
    pairs = zip(s.split([7, 1, 12]), p.split([7, 1, 12]), strict=True)
    told = [[len(a), *moments_of(a, b).tolist()] for a, b in pairs]
    found, expected = SampleSpread.of_ranks(told, 9.0), SampleSpread.of(9.0 * s, p)
    for name in ("samples", "norm", "product", "norms", "products", "both"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-12)
    assert SampleSpread.of_ranks([[0, *[0.0] * 5]]) is None


def test_merged_parts_hold_the_truth_in_95_of_100():
    """Unequal parts, one of a single sample and one of none; within three binomial deviations."""
    batches, samples = 2_000, 256
    rows, noise, square = rows_of(samples * batches, seed=5)
    rows = rows.view(batches, samples, -1)
    norms, products = rows.square().sum(2), torch.einsum("kbf,kf->kb", rows, rows.mean(1))
    held = dict.fromkeys(("noise", "signal", "scale"), 0)
    truth = {"noise": noise, "signal": square, "scale": noise / square}
    for s, p in zip(norms, products, strict=True):
        cuts = [1, 63, 192]
        pairs = zip(s.split(cuts), p.split(cuts), strict=True)
        parts = [[len(a), *moments_of(a, b).tolist()] for a, b in pairs]
        estimate = SampleSpread.of_ranks([[0, *[0.0] * 5], *parts]).estimate()
        for name in held:
            low, high = getattr(estimate, f"{name}_interval")()
            held[name] += low <= truth[name] <= high
    deviation = math.sqrt(0.95 * 0.05 / batches)
    for name, count in held.items():
        assert count / batches == pytest.approx(0.95, abs=3 * deviation), name


def test_the_interval_of_the_scale_is_fiellers():
    """The ends solve (V - rho G)^2 = t^2 Var(V - rho G)."""
    estimate = NoiseEstimate(50, 30.0, 2.0, 9.0, 0.25, 0.4)
    t = quantile(0.9, 49)
    for rho in estimate.scale_interval(0.9):
        variance = 9.0 - 2 * rho * 0.4 + rho * rho * 0.25
        assert (30.0 - 2.0 * rho) ** 2 == pytest.approx(t * t * variance)
    unclear = NoiseEstimate(50, 30.0, 0.2, 9.0, 0.25, 0.4)
    low, high = unclear.scale_interval(0.9)
    assert high == math.inf
    variance = 9.0 - 2 * low * 0.4 + low * low * 0.25
    assert (30.0 - 0.2 * low) ** 2 == pytest.approx(t * t * variance)
    assert NoiseEstimate(50, 30.0, -9.0, 9.0, 0.25, 0.4).scale_interval() == (math.inf, math.inf)
    assert NoiseEstimate(50, 1.0, 0.2, 9.0, 0.25, 0.0).scale_interval() == (0.0, math.inf)


def test_averages_over_steps_know_their_spread():
    steps = [NoiseEstimate(20, 30.0 + k, 2.0, 9.0, 0.25, 0.4) for k in range(3)]
    running = RunningNoise(0.5)
    for step in steps:
        average = running.add(step)
    weights = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64) / 1.75
    noise = torch.tensor([30.0, 31.0, 32.0], dtype=torch.float64)
    assert average.noise == pytest.approx((weights * noise).sum().item())
    squares = weights.square().sum().item()
    assert average.noise_variance == pytest.approx(9.0 * squares)
    assert average.covariance == pytest.approx(0.4 * squares)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("freedom", [3, 7, 30])
def test_quantiles_are_students(level, freedom):
    """Against the distribution function, summed up."""
    x = torch.linspace(0.0, quantile(level, freedom), 20_001, dtype=torch.float64)
    density = (1 + x * x / freedom) ** (-(freedom + 1) / 2)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density *= math.exp(log) / math.sqrt(freedom * math.pi)
    assert 2 * torch.trapezoid(density, x).item() == pytest.approx(level, abs=2e-3)


def test_the_controller_gives_the_intervals_of_its_tests():
    rows, _, _ = rows_of(32, signal=2.0)
    record = record_of(rows)
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=512, error_bars=0.9)
    controller.update(record, 32)
    metrics = controller.metrics()
    low, high = record.noise_estimate.scale_interval(0.9)
    assert (metrics["gns_low"], metrics["gns_high"]) == (low, high)
    assert low < metrics["gns"] < high
    expected = [rho / (1 + rho / 32) / 0.25 for rho in (low, high)]
    found = [metrics[f"batch/suggested_{end}"] for end in ("low", "high")]
    assert found == pytest.approx(expected)
    assert found[0] < metrics["batch/suggested"] < found[1]
    again = BatchController(NormTest(0.5), batch_size=8, max_batch_size=512, error_bars=0.9)
    again.load_state_dict(controller.state_dict())
    assert again.metrics() == metrics
    plain = BatchController(NormTest(0.5), batch_size=8, max_batch_size=512)
    plain.update(record, 32)
    assert not any("low" in name or "spread" in name for name in plain.metrics())
    assert "error_bars" not in plain.state_dict()


@pytest.mark.parametrize(
    ("criterion", "reason"),
    [
        (InnerProductTest(0.5), "V_ip turns with the mean gradient"),
        (AugmentedInnerProductTest(0.5, 5.0), "V_ip turns with the mean gradient"),
        (CoordinateNormTest(0.5), "third and fourth moments of every coordinate"),
        (MetricNormTest(0.5, metric="sign"), "samples times parameters numbers"),
        (GradientSimilarity(0.5, averaged=True), "no function of the noise scale"),
    ],
)
def test_a_size_without_an_interval_says_why_once(caplog, criterion, reason):
    record = record_of(rows_of(32)[0])
    controller = BatchController(criterion, batch_size=8, max_batch_size=10**9, error_bars=0.9)
    with caplog.at_level("WARNING", logger="adadagrad_kernels"):
        for _ in range(3):
            controller.update(record, 32)
    (said,) = [entry.message for entry in caplog.records if "no interval" in entry.message]
    assert said.startswith(f"the sizes of {criterion.name} get no interval")
    assert reason in said
    assert "batch/suggested_low" not in controller.metrics()
    assert "gns_low" in controller.metrics()


def test_averages_narrow_the_interval_of_the_size():
    rows, _, _ = rows_of(32 * 40, signal=0.7)
    controller = BatchController(
        GradientNoiseScale(beta=0.9), batch_size=32, max_batch_size=10**6, error_bars=0.95
    )
    for part in rows.split(32):
        controller.update(record_of(part), 32)
    metrics = controller.metrics()
    low, high = metrics["batch/suggested_low"], metrics["batch/suggested_high"]
    assert low < metrics["batch/suggested"] < high < 4 * low
    assert metrics["gns_high"] / max(metrics["gns_low"], 1e-9) > 2 * high / low


def test_what_is_refused():
    rows, _, _ = rows_of(8)
    record = record_of(rows)
    with pytest.raises(ValueError, match="at least 4 samples, and this batch has 3"):
        _ = record_of(rows[:3]).noise_estimate
    bare = GradientStatistics(8, record.mean_sq_norm, record.sum_sq_norms)
    with pytest.raises(MissingStatisticError, match="lacks the norms; ask the source"):
        _ = bare.noise_estimate
    part = GradientStatistics(8, 1.0, 9.0, spread=SampleSpread(4, 1.0, 1.0, 1.0, 1.0, 0.5))
    with pytest.raises(ValueError, match="spread is of 4 samples, and this record of 8"):
        _ = part.noise_estimate
    with pytest.raises(ValueError, match="level must be above 0 and below 1"):
        BatchController(NormTest(0.5), batch_size=8, max_batch_size=9, error_bars=95)
    with pytest.raises(ValueError, match="averages of averages"):
        BatchController(
            GradientNoiseScale(beta=0.5), batch_size=8, max_batch_size=9, smoothing=0.5,
            error_bars=0.9,
        )  # fmt: skip
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=512, error_bars=0.9)
    with pytest.raises(MissingStatisticError, match="inner_products=True"):
        controller.update(bare, 8)
    inner = BatchController(InnerProductTest(0.5), batch_size=8, max_batch_size=512, error_bars=0.9)
    inner.update(record, 8)
    assert "batch/suggested_low" not in inner.metrics(), "it is no function of the noise scale"
    assert "gns_low" in inner.metrics()
