"""What tames a controller: hysteresis, cool-down, averages."""

from __future__ import annotations

import json
import math

import pytest
import torch
from test_controller import KNOWN, Scripted

from adadagrad_kernels.batching import BatchController, SmoothedStatistics
from adadagrad_kernels.criteria import (
    AugmentedInnerProductTest,
    CoordinateNormTest,
    GradientDiversity,
    InnerProductTest,
    NormTest,
)
from adadagrad_kernels.statistics import GradientStatistics


def statistics_of(size):
    return GradientStatistics(batch_size=size, mean_sq_norm=1.0, sum_sq_norms=9.0 * size)


def scripted(suggestions, **options):
    return BatchController(
        Scripted(list(suggestions)), batch_size=16, max_batch_size=1024, **options
    )


@pytest.mark.parametrize(
    ("suggestion", "expected"), [(19.0, 16), (19.2, 16), (19.21, 20), (14.0, 16), (13.0, 16)]
)
def test_hysteresis_leaves_small_changes_alone(suggestion, expected):
    assert scripted([suggestion], hysteresis=1.2).update(statistics_of(16)) == expected


def test_hysteresis_works_downwards_too():
    controller = scripted([64.0, 40.0, 31.0], hysteresis=2.0, allow_shrink=True)
    assert [controller.update(statistics_of(16)) for _ in range(3)] == [64, 64, 31]


def test_no_test_is_made_while_cooling_down():
    controller = scripted([17.0, 18.0, 18.0, 19.0], cooldown=2)
    wanted, sizes = [], []
    for _ in range(8):
        wanted.append(controller.wants_test())
        sizes.append(controller.update(statistics_of(controller.batch_size)))
    assert wanted == [True, False, False, True, False, False, True, True]
    assert sizes == [17, 17, 17, 18, 18, 18, 18, 19]


def moments(record):
    return record.variance_norm, record.mean_sq_norm


def test_averages_are_those_of_quantities_that_do_not_know_the_batch_size():
    beta, smoothed, seen = 0.7, SmoothedStatistics(0.7), []
    for size, variance, signal, along in [(8, 40.0, 2.0, 3.0), (16, 24.0, 1.0, 2.0), (64, 8, 4, 1)]:
        mean = signal + variance / size
        record = GradientStatistics(
            size,
            mean_sq_norm=mean,
            sum_sq_norms=(size - 1) * variance + size * mean,
            sum_sq_inner_products=(size - 1) * along * mean + size * mean**2,
        )
        seen.append((variance, signal, along))
        powers = [beta ** (len(seen) - 1 - k) for k in range(len(seen))]
        var, sig, alo = (
            sum(p * values[i] for p, values in zip(powers, seen, strict=True)) / sum(powers)
            for i in range(3)
        )
        found = smoothed(record)
        assert moments(found) == pytest.approx((var, sig + var / size))
        assert found.inner_product_variance == pytest.approx(alo * (sig + var / size))
        assert found.batch_size == size


def test_no_smoothing_is_the_record_itself():
    assert SmoothedStatistics(0.0)(KNOWN) is KNOWN


def test_an_average_signal_below_zero_counts_as_none():
    smoothed = SmoothedStatistics(0.5)(GradientStatistics(4, mean_sq_norm=0.0, sum_sq_norms=12.0))
    assert moments(smoothed) == (4.0, 1.0)


def test_overwhelming_noise_is_no_vanishing_gradient():
    """Averages from before the batch grew say too little signal, never that all is well."""
    controller = BatchController(NormTest(0.5), batch_size=8, max_batch_size=4096, smoothing=0.9)
    controller.update(GradientStatistics(8, 1.0, 8 + 7 * 16.0))  # V = 16, |G|^2 = -1
    noisy = GradientStatistics(64, 0.2, 64 * 0.2 + 63 * 16.0)
    assert controller.update(noisy) == 256  # 16 / (0.25 * 16 / 64)
    assert not controller.last_decision.passed


def test_a_vanishing_gradient_has_inner_products_too():
    controller = BatchController(
        InnerProductTest(0.5), batch_size=8, max_batch_size=64, smoothing=0.9
    )
    controller.update(GradientStatistics(8, 1.0, 20.0, sum_sq_inner_products=9.0))
    controller.update(GradientStatistics(8, 0.0, 0.0, sum_sq_inner_products=0.0))
    assert controller.last_decision.criterion == "inner_product_test"


def test_smoothing_decides_by_the_averages():
    controller = BatchController(
        NormTest(eta=1.0), batch_size=4, max_batch_size=1024, smoothing=0.5
    )
    calm = GradientStatistics(4, mean_sq_norm=2.0, sum_sq_norms=12.0)  # V = 4/3
    wild = GradientStatistics(4, mean_sq_norm=2.0, sum_sq_norms=128.0)  # V = 40
    assert controller.update(calm) == 4
    by_hand = SmoothedStatistics(0.5)
    by_hand(calm)
    record = by_hand(wild)
    assert controller.update(wild) == math.ceil(record.variance_norm / record.mean_sq_norm)
    assert controller.metrics()["grad/var"] == wild.variance_norm  # what was measured


def test_options_resume():
    def fresh():
        return BatchController(
            AugmentedInnerProductTest(0.5, 0.5),
            batch_size=8,
            max_batch_size=1024,
            cooldown=1,
            smoothing=0.9,
        )

    def record(size, factor):
        return GradientStatistics(size, 1.0, 9.0 * size * factor, sum_sq_inner_products=4.0 * size)

    first = fresh()
    sizes = [first.update(record(first.batch_size, factor)) for factor in (1.0, 2.0, 3.0)]
    assert sizes[-1] > 8
    resumed = fresh()
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for factor in (1.0, 5.0, 2.0):
        assert resumed.wants_test() == first.wants_test()
        size = first.batch_size
        assert resumed.update(record(size, factor)) == first.update(record(size, factor))
    assert resumed.state_dict() == first.state_dict()


def test_a_state_of_other_smoothing_is_refused_whole():
    saved = scripted([32.0], smoothing=0.5)
    saved.update(statistics_of(16))
    other = scripted([], smoothing=0.9)
    with pytest.raises(ValueError, match=r"smoothing=0\.5"):
        other.load_state_dict(saved.state_dict())
    assert (other.steps, other.batch_size) == (0, 16)
    assert other.smoothing.state_dict()["averages"] == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hysteresis": 0.9}, "hysteresis must be a finite factor of at least 1, got 0.9"),
        ({"cooldown": -1}, "cooldown must be an integer of at least 0"),
        ({"smoothing": 1.0}, "smoothing must be at least 0 and below 1, got 1.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        scripted([], **options)


@pytest.mark.parametrize(
    "criterion", [CoordinateNormTest(0.5), InnerProductTest(0.5, layerwise=True)]
)
def test_smoothing_refuses_what_it_does_not_average(criterion):
    with pytest.raises(ValueError, match=f"{criterion.name} reads: use smoothing=0"):
        BatchController(criterion, batch_size=8, max_batch_size=64, smoothing=0.5)


def test_no_statistics_are_a_step():
    with pytest.raises(
        ValueError, match=r"not measured, and no samples; count the step with step\(samples\)"
    ):
        scripted([]).update(None)
    one, other = scripted([]), scripted([])
    assert one.update(None, 16, loss=2.0) == other.step(16, loss=2.0)
    assert one.state_dict() == other.state_dict()
    assert one.samples_seen == 16


def test_a_loss_with_a_graph_is_a_number():
    controller, weight = scripted([16.0]), torch.ones(1, requires_grad=True)
    controller.update(statistics_of(16), loss=(2 * weight).sum())
    controller.step(16, loss=(2 * weight).sum())
    loss, weight, *_ = json.loads(json.dumps(controller.state_dict()))["signatures"]["loss"]
    assert loss / weight == pytest.approx(2.0)


def test_a_rule_is_told_of_samples_that_were_measured_alone():
    rule = GradientDiversity(1.0, dataset_size=64)
    controller = BatchController(rule, batch_size=8, max_batch_size=64)
    with pytest.raises(ValueError, match="which has 8 of the step's 32: measure the whole step"):
        controller.update(statistics_of(8), samples=32)
    assert controller.steps == 0


def test_a_criterion_that_does_not_decide_keeps_the_size_whatever_the_step_had():
    controller = scripted([64.0, 5.0, 6.0], allow_shrink=True)
    assert [controller.update(statistics_of(size)) for size in (16, 5, 64)] == [64, 64, 16]
