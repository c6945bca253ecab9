"""GradientNoiseScale and two_batch_noise_scale: published values, averages, one estimator."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from gradient_rows import observed

from adadagrad_kernels import BatchController
from adadagrad_kernels.criteria import BatchSizeRule, GradientNoiseScale, two_batch_noise_scale
from adadagrad_kernels.statistics import GradientStatistics

S, G = 22.691964285714285, 3.2142857142857144


def test_published_parts(batch: GradientStatistics) -> None:
    rule = GradientNoiseScale(scale=3.0)
    decision = rule(batch)
    assert decision.criterion == "gradient_noise_scale"
    assert rule.noise == pytest.approx(S, rel=1e-13)
    assert rule.signal == pytest.approx(G, rel=1e-12)
    assert decision.batch_size == pytest.approx(3 * S / G, rel=1e-12)
    assert decision.batch_size == pytest.approx(3 * batch.noise_scale, rel=1e-12)
    assert not decision.passed
    assert GradientNoiseScale(scale=8 * G / S * 0.999)(batch).passed


def test_parts_are_averaged_apart_and_corrected_for_their_start() -> None:
    """Weights beta^(k-i) over the steps, written as weighted means."""
    rule, beta = GradientNoiseScale(beta=0.7), 0.7
    noises, signals = [], []
    for step in range(5):
        samples, norm, squares = 4 + step, 1.0 + step, 90.0 - 5 * step
        decision = rule(GradientStatistics(samples, norm, squares))
        noises.append((squares - samples * norm) / (samples - 1))
        signals.append(norm - noises[-1] / samples)
        weights = [beta ** (step - i) for i in range(step + 1)]
        noise = sum(w * v for w, v in zip(weights, noises, strict=True)) / sum(weights)
        signal = sum(w * v for w, v in zip(weights, signals, strict=True)) / sum(weights)
        assert rule.noise == pytest.approx(noise, rel=1e-12)
        assert rule.signal == pytest.approx(signal, rel=1e-12)
        assert decision.batch_size == pytest.approx(noise / max(signal, 1e-12))
    assert signals[0] < 0 < rule.signal


def test_a_negative_signal_asks_for_the_largest_batch_and_no_noise_for_nothing() -> None:
    noisy = GradientStatistics(4, 1.0, 60.0)
    assert GradientNoiseScale()(noisy).batch_size == pytest.approx(56 / 3 / 1e-12)
    assert GradientNoiseScale(eps=0.5)(noisy).batch_size == pytest.approx(56 / 3 / 0.5)
    equal = GradientStatistics(4, 1.0, 4.0)
    assert GradientNoiseScale()(equal).batch_size == pytest.approx(1e-12)
    assert GradientNoiseScale()(equal).passed


@pytest.mark.parametrize(("sizes", "small"), [((2, 2, 2, 2), 2), ((4, 4), 4), ((1,) * 8, 1)])
def test_micro_batches_give_the_estimate_from_two_batch_sizes(
    sizes: tuple[int, ...], small: int
) -> None:
    rows = torch.randn(8, 5, dtype=torch.float64) + 0.5
    means = torch.stack([part.mean(0) for part in rows.split(sizes)])
    small_sq_norm = means.square().sum(1).mean().item()
    big_sq_norm = rows.mean(0).square().sum().item()
    noise, signal = two_batch_noise_scale(small_sq_norm, big_sq_norm, small=small, big=8)
    rule = GradientNoiseScale()
    rule(observed(list(rows.split(sizes))))
    assert rule.noise == pytest.approx(noise, rel=1e-12)
    assert rule.signal == pytest.approx(signal, rel=1e-12)
    if small == 1:  # also the sample variance
        assert noise == pytest.approx(rows.var(0).sum().item(), rel=1e-12)


def test_published_two_batch_value() -> None:
    """Four workers with two samples: (b / J) Var_J."""
    norms = 6.05078125 + 5.786458333333334 * 3 / 4
    noise, signal = two_batch_noise_scale(norms, 6.05078125, small=2, big=8)
    assert noise == pytest.approx(11.572916666666668, rel=1e-14)
    assert signal == pytest.approx(6.05078125 - 11.572916666666668 / 8, rel=1e-14)


@pytest.mark.parametrize(("small", "big"), [(0, 4), (4, 4), (8, 4), (-2, 4)])
def test_two_sizes_that_do_not_differ(small: int, big: int) -> None:
    with pytest.raises(ValueError, match=rf"small < big, got small={small} and big={big}"):
        two_batch_noise_scale(1.0, 1.0, small=small, big=big)


def test_it_goes_on_from_its_state() -> None:
    records = [GradientStatistics(4 + k, 1.0 + k, 60.0 - k) for k in range(6)]
    through = GradientNoiseScale(beta=0.9)
    expected = [through(each).batch_size for each in records]
    first = GradientNoiseScale(beta=0.9)
    for each in records[:3]:
        first(each)
    second = GradientNoiseScale(beta=0.9)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second(each).batch_size for each in records[3:]] == expected[3:]
    assert isinstance(second, BatchSizeRule)


@pytest.mark.parametrize(
    "state", [None, {}, {"noise": 1.0, "signal": 1.0}, {"noise": "1", "signal": 1.0, "weight": 1}]
)
def test_a_state_that_does_not_fit_changes_nothing(state: Any) -> None:
    rule = GradientNoiseScale(beta=0.5)
    rule(GradientStatistics(4, 1.0, 60.0))
    before = rule.state_dict()
    with pytest.raises(ValueError, match="state of GradientNoiseScale"):
        rule.load_state_dict(state)
    assert rule.state_dict() == before


def test_non_finite_steps_are_left_out() -> None:
    rule = GradientNoiseScale(beta=0.5)
    assert math.isnan(rule.noise)
    assert math.isnan(rule.signal)
    rule(GradientStatistics(4, 1.0, 60.0))
    before = rule.state_dict()
    for bad in (math.nan, math.inf):
        assert math.isnan(rule(GradientStatistics(4, 1.0, bad)).batch_size)
        assert math.isnan(rule(GradientStatistics(4, bad, 60.0)).batch_size)
    assert rule.state_dict() == before
    with pytest.raises(ValueError, match="at least two samples"):
        rule(GradientStatistics(1, 1.0, 1.0))
    assert rule.state_dict() == before


def test_constants_out_of_range() -> None:
    for name in ("scale", "eps"):
        for value in (0.0, -1.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=f"{name} must be a finite number greater than 0"):
                GradientNoiseScale(**{name: value})
    for value in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"beta must be at least 0 and below 1, got"):
            GradientNoiseScale(beta=value)


def test_the_controller_resumes_with_it() -> None:
    def controller(scale: float = 1.0) -> BatchController:
        return BatchController(
            GradientNoiseScale(scale, beta=0.9), batch_size=4, max_batch_size=4096
        )

    records = [GradientStatistics(4, 5.0 + k, 60.0 + k) for k in range(6)]
    through, first = controller(), controller()
    sizes = [through.update(each) for each in records]
    for each in records[:3]:
        first.update(each)
    second = controller()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.update(each) for each in records[3:]] == sizes[3:]
    with pytest.raises(ValueError, match="criterion"):
        controller(2.0).load_state_dict(first.state_dict())
