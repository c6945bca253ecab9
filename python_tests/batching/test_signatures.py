"""Each failure signature, provoked by training a noisy quadratic, and silence where all is well."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import fields, replace

import pytest
import torch

from adadagrad_kernels.batching import BatchController, FailureSignatures
from adadagrad_kernels.criteria import (
    CABS,
    AugmentedInnerProductTest,
    CoordinateNormTest,
    Decision,
    GradientDiversity,
    GradientNoiseScale,
    GradientSimilarity,
    InnerProductTest,
    MetricNormTest,
    NormTest,
    SmallestOf,
)
from adadagrad_kernels.ops import batch_moments
from adadagrad_kernels.statistics import GradientStatistics

DIMENSIONS = 10


def controller_of(eta=0.5, patience=40, **options):
    options = {"batch_size": 8, "max_batch_size": 4096, **options}
    signatures = FailureSignatures(patience=patience)
    return BatchController(NormTest(eta), signatures=signatures, **options)


def train(controller, *, lr, noise, start=10.0, steps=120):
    """Minimises the mean of |x - sample|^2 / 2 over samples around 0, by gradients x - sample."""
    generator = torch.Generator().manual_seed(0)
    x = torch.full((DIMENSIONS,), start, dtype=torch.float64)
    for _ in range(steps):
        size = (controller.batch_size, DIMENSIONS)
        rows = x - noise * torch.randn(size, dtype=torch.float64, generator=generator)
        statistics = GradientStatistics.from_moments({"x": batch_moments(rows)})
        loss = 0.5 * rows.square().sum(1).mean().item()
        x = x - lr * rows.mean(0)
        controller.update(statistics, loss=loss)
    return [finding.name for finding in controller.signatures.findings]


def test_silence_where_all_is_well():
    controller = controller_of()
    assert train(controller, lr=0.1, noise=1.0, steps=60) == []
    assert controller.batch_size > 8


@pytest.mark.parametrize(
    ("name", "options", "run", "knobs"),
    [
        (
            "diverges",
            {},
            {"lr": 2.5, "noise": 0.1, "steps": 20},
            ["smaller learning rate", "batch_size (now 8)"],
        ),
        (
            "cap_at_once",
            {"eta": 0.003},
            {"lr": 0.1, "noise": 3.0, "steps": 20},
            ["a larger eta (now 0.003)", "growth_cap (now none)"],
        ),
        (
            "cap_binds",
            {"eta": 0.1, "max_batch_size": 32, "growth_cap": 1.1},
            {"lr": 0.1, "noise": 1.0},
            ["max_batch_size 32", "a larger max_batch_size"],
        ),
        (
            "plateaus",
            {},
            {"lr": 1e-7, "noise": 0.1},
            ["size 8", "a smaller eta (now 0.5)", "the learning rate"],
        ),
        (
            "growth_lacks",
            {"eta": 100.0, "test_interval": 2, "hysteresis": 1.2},
            {"lr": 0.1, "noise": 1.0, "steps": 160},
            [
                "the noise scale is",
                "smaller eta (now 100.0), test_interval (now 2), hysteresis (now 1.2)",
            ],
        ),
    ],
)
def test_each_signature(caplog, name, options, run, knobs):
    controller = controller_of(**options)
    with caplog.at_level(logging.WARNING, "adadagrad_kernels"):
        assert train(controller, **run) == [name]
    (finding,) = controller.signatures.findings
    assert 1 <= finding.step <= controller.steps
    assert [record.getMessage() for record in caplog.records] == [
        f"step {finding.step}: {name}: {finding.text}"
    ]
    for knob in knobs:
        assert knob in finding.text


WAYS = {
    NormTest(0.5): "smaller",
    CoordinateNormTest(0.5): "smaller",
    MetricNormTest(0.5, "sign"): "smaller",
    InnerProductTest(0.5): "smaller",
    AugmentedInnerProductTest(0.5, 2.0): "smaller",
    GradientNoiseScale(): "larger",
    CABS(lr=0.5): "larger",
    GradientDiversity(0.5, 8): "larger",
}


def batch():
    """8 noisy samples."""
    generator = torch.Generator().manual_seed(0)
    rows = 1 + 0.5 * torch.randn(8, 3, dtype=torch.float64, generator=generator)
    return replace(GradientStatistics.from_moments({"x": batch_moments(rows)}), loss=0.5)


@pytest.mark.parametrize("criterion", WAYS, ids=lambda criterion: criterion.name)
def test_the_way_that_a_criterion_names_does_make_batches_larger(criterion):
    """Asked of the criterion itself: with every constant twice as far that way, T is larger."""
    ways = criterion.larger_batches
    assert set(ways.values()) == {WAYS[criterion]}
    settings = {
        field.name: getattr(criterion, field.name) for field in fields(criterion) if field.init
    }
    if isinstance(criterion, MetricNormTest):
        settings = {"eta": criterion.eta, "metric": criterion.metric}

    def asked(factor):
        turned = {
            n: settings[n] * (factor if w == "larger" else 1 / factor) for n, w in ways.items()
        }
        return type(criterion)(**{**settings, **turned})(batch()).batch_size

    assert asked(2.0) > asked(1.0) > asked(0.5)


def test_similarity_asks_for_more_with_a_larger_target():
    (target,) = GradientSimilarity.larger_batches
    assert GradientSimilarity.larger_batches[target] == "larger"
    small, large = (GradientSimilarity(**{target: at}, averaged=True) for at in (-0.9, 0.99))
    assert large(batch()).batch_size > small(batch()).batch_size


@pytest.mark.parametrize("words", [None, {"scale": "--scale", "growth_cap": "--growth-cap"}])
def test_noise_scale_at_the_cap_is_to_be_made_smaller(words):
    controller = BatchController(
        GradientNoiseScale(2.0),
        batch_size=8,
        max_batch_size=64,
        signatures=FailureSignatures(words=words),
    )
    controller.update(GradientStatistics(8, mean_sq_norm=1.0, sum_sq_norms=80.0))
    (finding,) = controller.signatures.findings
    scale, cap = ("--scale", "--growth-cap") if words else ("scale", "growth_cap")
    assert finding.name == "cap_at_once"
    assert f"Knobs: a smaller {scale} (now 2.0), or {cap} (now none)" in finding.text


def test_diversity_is_silent_before_its_first_decision_and_names_the_way_after_it():
    rule = GradientDiversity(1e-9, dataset_size=30 * 8)
    controller = BatchController(
        rule, batch_size=8, max_batch_size=64, signatures=FailureSignatures(patience=10)
    )
    for step in range(1, 61):
        controller.update(batch(), loss=1.0)
        assert bool(controller.signatures.findings) == (step >= 30), step
    (finding,) = controller.signatures.findings
    assert (finding.name, finding.step) == ("plateaus", 30)
    assert "a larger delta (now 1e-09)" in finding.text


def test_a_filter_passes_the_way_on_and_is_no_decision_between():
    controller = BatchController(
        SmallestOf(NormTest(100.0), steps=25),
        batch_size=8,
        max_batch_size=64,
        signatures=FailureSignatures(patience=10),
    )
    for _ in range(24):
        controller.update(batch(), loss=1.0)
    assert controller.signatures.findings == []
    controller.update(batch(), loss=1.0)
    (finding,) = controller.signatures.findings
    assert "a smaller eta (now 100.0) or a smaller steps (now 25)" in finding.text


def test_a_criterion_that_does_not_say_which_way_is_named_without_one():
    class Own:
        name, needs_variance, needs_inner_products = "own", False, False

        def __call__(self, statistics):
            return Decision(self.name, 1e6, False, {})

        def __repr__(self):
            return "Own()"

    controller = BatchController(Own(), batch_size=8, max_batch_size=64)
    controller.update(batch())
    (finding,) = controller.signatures.findings
    assert "Knobs: the constants of Own(), for smaller batches, or growth_cap" in finding.text


def test_a_loss_that_is_not_finite_diverges_at_once():
    controller = controller_of()
    controller.step(8, loss=1.0)
    controller.step(8, loss=math.nan)
    (finding,) = controller.signatures.findings
    assert (finding.name, finding.step) == ("diverges", 2)


def test_a_loss_that_is_thrown_up_for_a_moment_does_not_diverge():
    controller = controller_of()
    for loss in [1.0, 200.0, *[0.5] * 60]:
        controller.step(8, loss=loss)
    assert controller.signatures.findings == []


def test_without_a_loss_nothing_is_said_of_it():
    controller = controller_of(eta=100.0)
    for _ in range(100):
        controller.update(GradientStatistics(8, mean_sq_norm=1e-3, sum_sq_norms=80.0))
    assert controller.signatures.findings == []


def test_a_fixed_batch_is_watched_for_divergence_alone():
    controller = BatchController(None, batch_size=8, max_batch_size=8)
    for step in range(300):
        controller.step(8, loss=1.0 if step < 270 else 100.0)
    assert [finding.name for finding in controller.signatures.findings] == ["diverges"]


def test_what_was_seen_and_counted_is_part_of_the_state():
    whole, first = controller_of(eta=100.0), controller_of(eta=100.0)
    train(whole, lr=0.3, noise=1.0, steps=120)
    train(first, lr=0.3, noise=1.0, steps=120)
    resumed = controller_of(eta=100.0)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.signatures.findings == whole.signatures.findings != []
    for controller in (whole, resumed):
        controller.step(8, loss=math.inf)
    assert resumed.signatures.state_dict() == whole.signatures.state_dict()
    broken = first.state_dict()
    broken["signatures"]["findings"] = [{"colour": "red"}]
    with pytest.raises(ValueError, match=r"saved findings are .*the fields of a Finding"):
        controller_of(eta=100.0).load_state_dict(broken)


def test_a_resumed_run_finds_what_it_would_have_found():
    def fresh():
        return controller_of(eta=10.0, patience=20, test_interval=10, max_batch_size=64)

    findings = []
    for resume in (False, True):
        controller = fresh()
        for step in range(30):
            if resume and step == 20:
                state = json.loads(json.dumps(controller.state_dict()))
                controller = fresh()
                controller.load_state_dict(state)
            if controller.wants_test():
                controller.update(GradientStatistics(8, 1.0, 200.0), loss=1.0)
            else:
                controller.step(8, loss=1.0)
        findings.append(controller.signatures.findings)
    assert findings[0] == findings[1] != []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patience": 0}, "patience must be an integer of at least 1"),
        ({"early": 0}, "early must be an integer of at least 1"),
        ({"factor": 1.0}, "factor must be a finite factor above 1"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FailureSignatures(**options)
