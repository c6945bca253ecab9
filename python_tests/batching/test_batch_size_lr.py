"""Learning rates that follow the batch, beside schedulers that know nothing of it."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR

from adadagrad_kernels.batching import AdaScale, BatchSizeLR, PowerRule, SamplesLR, per_doubling
from adadagrad_kernels.statistics import GradientStatistics

SCHEDULERS = {
    "closed form": lambda optimizer: LambdaLR(optimizer, lambda step: 1.0 / (1 + step)),
    "chainable": lambda optimizer: ExponentialLR(optimizer, 0.9),
    "recursive": lambda optimizer: CosineAnnealingLR(optimizer, 40),
    "samples": lambda optimizer: SamplesLR(LambdaLR(optimizer, lambda k: 0.9**k), 10),
}


def weights(count=2):
    return [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(count)]


def sgd(parameters, rates=(0.5, 0.25)):
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, rates, strict=True)]
    return torch.optim.SGD(groups)


def advance(optimizer, parameters):
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    before = [parameter.item() for parameter in parameters]
    optimizer.step()
    return [old - parameter.item() for old, parameter in zip(before, parameters, strict=True)]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_gain_multiplies_what_a_scheduler_says_and_never_reaches_it(name):
    plain, ours = weights(), weights()
    optimizers = sgd(plain), sgd(ours)
    schedulers = [SCHEDULERS[name](optimizer) for optimizer in optimizers]
    rate = BatchSizeLR(optimizers[1], "sqrt", batch_size=8)
    for size in (8, 8, 16, 32, 32, 9, 72):
        rate.update(size)
        assert rate.gain == pytest.approx(math.sqrt(size / 8))
        expected = advance(optimizers[0], plain)
        found = advance(optimizers[1], ours)
        assert found == pytest.approx([step * rate.gain for step in expected], rel=1e-12)
        for scheduler in schedulers:
            scheduler.step(size) if name == "samples" else scheduler.step()
        rates = [[group["lr"] for group in o.param_groups] for o in optimizers]
        assert rates[0] == rates[1]


def test_a_rate_that_is_a_tensor_keeps_its_place():
    (weight,) = weights(1)
    lr = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.Adagrad([weight], lr=lr, eps=0.0)
    BatchSizeLR(optimizer, "linear", batch_size=4).update(12)
    assert advance(optimizer, [weight]) == pytest.approx([1.5])
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.5


def test_the_rate_comes_back_after_a_step_that_raised():
    (weight,) = weights(1)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    rate = BatchSizeLR(optimizer, "linear", batch_size=4)
    rate.update(8)

    def closure():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(closure)
    rate.update(8)
    assert optimizer.param_groups[0]["lr"] == 0.5
    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(closure)
    assert advance(optimizer, [weight]) == [1.0]
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_tensor_that_groups_share_is_multiplied_once():
    parameters, lr = weights(), torch.tensor(0.1, dtype=torch.float64)
    groups = [{"params": [parameter]} for parameter in parameters]
    optimizer = torch.optim.Adagrad(groups, lr=lr, eps=0.0)
    BatchSizeLR(optimizer, "linear", batch_size=8).update(16)
    assert advance(optimizer, parameters) == pytest.approx([0.2, 0.2])
    assert [group["lr"].item() for group in optimizer.param_groups] == [0.1, 0.1]


def test_an_optimizer_has_one_gain():
    optimizer = torch.optim.SGD(weights(1), lr=0.5)
    first = BatchSizeLR(optimizer, "linear", batch_size=8)
    with pytest.raises(ValueError, match=r"has a BatchSizeLR.* call remove\(\) on the first"):
        BatchSizeLR(optimizer, "sqrt", batch_size=8)
    first.remove()
    BatchSizeLR(optimizer, "sqrt", batch_size=8)


def test_a_loaded_rate_is_not_overwritten_by_that_of_a_step_that_raised():
    (weight,) = weights(1)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    BatchSizeLR(optimizer, "linear", batch_size=8).update(16)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 0.125

    def closure():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        optimizer.step(closure)
    optimizer.load_state_dict(state)
    assert advance(optimizer, [weight]) == [0.25]
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_after_remove_the_optimizer_is_on_its_own():
    (weight,) = weights(1)
    optimizer = torch.optim.SGD([weight], lr=0.5)
    rate = BatchSizeLR(optimizer, "linear", batch_size=4)
    rate.update(8)
    rate.remove()
    assert advance(optimizer, [weight]) == [0.5]


def test_published_factors():
    assert per_doubling(0.75).gain(2.0) == pytest.approx(0.75)
    assert per_doubling(0.75).gain(16.0) == pytest.approx(0.75**4)
    seesaw = per_doubling(1 / math.sqrt(2))
    assert seesaw.gain(4.0) == pytest.approx(0.5)
    assert PowerRule(1.0).gain(3.0) == 3.0


def batch(samples, variance, signal):
    """A record with this V_norm whose unbiased estimate of |G|^2 is ``signal``."""
    mean = signal + variance / samples
    return GradientStatistics(
        samples, mean_sq_norm=mean, sum_sq_norms=(samples - 1) * variance + samples * mean
    )


@pytest.mark.parametrize("square_root", [False, True])
def test_adascale_is_its_formula_over_averages_of_its_own(square_root):
    rule = AdaScale(batch_size=8, beta=0.6, square_root=square_root)
    seen, progress = [], 0.0
    for samples, variance, signal in [(8, 40.0, 2.0), (16, 24.0, 1.0), (64, 80.0, -0.5)]:
        rule.observe(batch(samples, variance, signal))
        seen.append((variance / 8, signal))
        powers = [0.6 ** (len(seen) - 1 - k) for k in range(len(seen))]
        var = sum(p * v for p, (v, _) in zip(powers, seen, strict=True)) / sum(powers)
        sqr = max(0.0, sum(p * s for p, (_, s) in zip(powers, seen, strict=True)) / sum(powers))
        progress += (var + sqr) / (var / (samples / 8) + sqr)
        for growth in (1.0, 2.5, 100.0):
            gain = (var + sqr) / (var / growth + sqr)
            assert rule.gain(growth) == pytest.approx(math.sqrt(gain) if square_root else gain)
        assert rule.progress == pytest.approx(progress)


def test_adascale_at_its_ends():
    rule = AdaScale(batch_size=8)
    assert rule.gain(4.0) == 1.0  # nothing was observed
    rule.observe(batch(8, 0.0, 5.0))
    assert rule.gain(4.0) == pytest.approx(1.0, abs=1e-6)  # no noise
    noisy = AdaScale(batch_size=8)
    noisy.observe(batch(8, 80.0, 0.0))
    assert noisy.gain(4.0) == pytest.approx(4.0)
    noisy.observe(batch(8, math.nan, 0.0))
    assert noisy.gain(4.0) == pytest.approx(4.0)


def test_a_resumed_run_goes_on_with_the_same_gain():
    optimizer = torch.optim.SGD(weights(1), lr=0.5)
    rate = BatchSizeLR(optimizer, AdaScale(batch_size=8, beta=0.9), batch_size=8)
    rate.update(16, batch(8, 40.0, 2.0))
    rate.remove()
    resumed = BatchSizeLR(optimizer, AdaScale(batch_size=8, beta=0.9), batch_size=8)
    resumed.load_state_dict(json.loads(json.dumps(rate.state_dict())))
    assert resumed.gain == rate.gain > 1.0
    for each in (rate, resumed):
        each.update(32, batch(16, 10.0, 1.0))
    assert resumed.gain == rate.gain
    resumed.remove()
    other = BatchSizeLR(optimizer, AdaScale(batch_size=4), batch_size=8)
    with pytest.raises(ValueError, match="rule"):
        other.load_state_dict(rate.state_dict())
    assert other.gain == 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda o: BatchSizeLR(o, "cubic", batch_size=8),
            "linear, sqrt, or a LearningRateRule .*got 'cubic'",
        ),
        (lambda o: BatchSizeLR(o, "linear", batch_size=0), "batch_size must be an integer"),
        (lambda o: per_doubling(0.0), "factor must be a finite factor above 0, got 0.0"),
        (lambda o: PowerRule(math.inf), "power must be finite"),
        (lambda o: AdaScale(8, beta=1.0), "beta must be at least 0 and below 1"),
    ],
)
def test_what_is_no_rule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(torch.optim.SGD(weights(1), lr=0.5))
