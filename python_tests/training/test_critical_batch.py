"""The critical batch of noisy quadratics, whose answer is known, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from adadagrad_kernels.training.critical_batch import (
    Point,
    crossing,
    fit,
    follow,
    gain_of,
    limited,
    measure,
)

#: Of the quadratic: coordinates, curvature, and the noise scale at the start.
FEATURES, CURVATURE, NOISE = 400, 1.0, 64.0


def quadratic(rate, own_steps=80):
    """Branches of SGD on |theta|^2 / 2, with gradient noise of a known scale at their start.

    ``rate`` gives the learning rate of a size and a rule. McCandlish et al. 2018: the best rate at
    batch B is 1 / (1 + NOISE / B) of the largest, and the steps to a loss near the start are
    S_min (1 + NOISE / B).
    """

    def losses(size, rule, seed):
        generator = torch.Generator().manual_seed(1_000 * seed + size)
        start = torch.ones(FEATURES, dtype=torch.float64)
        sigma = math.sqrt(NOISE)  # V = FEATURES sigma^2 and |G|^2 = FEATURES
        theta = start.clone()
        yield 0, 0.5 * theta.square().sum().item()
        for step in range(1, 4_001):
            noise = torch.randn(FEATURES, generator=generator, dtype=torch.float64)
            theta -= rate(size, rule) * (CURVATURE * theta + noise * sigma / math.sqrt(size))
            yield step, 0.5 * theta.square().sum().item()

    def branch(size, rule, seed, target):
        run = losses(size, rule, seed)
        if target is None:
            run = itertools.islice(run, own_steps + 1)
        curve, diverged = follow(run, target)
        steps = None if diverged or target is None else crossing(curve, target)
        return Point(size, rule, seed, steps, diverged, curve)

    return branch


def best_rate(size, rule):
    """A twentieth of the best, for steps so small that the formula is exact."""
    return 0.05 / (1.0 + NOISE / size)


SIZES = [2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]


def test_noisy_quadratics_give_the_critical_batch_that_is_known():
    """At the best learning rate of every size; the loss falls by a tenth only."""
    target, points = measure(
        quadratic(best_rate, own_steps=18), size=8, sizes=SIZES, rules=["none"], seeds=4
    )
    start = FEATURES / 2
    assert 0.8 * start < target < start
    found = fit(points, "none")
    low, high = found.interval
    assert low <= NOISE * 1.1
    assert high >= NOISE * 0.8
    assert high < 2 * low, "eleven sizes and four seeds are enough"
    assert found.critical == pytest.approx(NOISE, rel=0.25)
    assert found.wide is None
    halving = found.steps(2 * found.critical) / found.steps(found.critical)
    assert halving == pytest.approx(0.75)


def test_exact_steps_are_recovered_exactly_and_scatter_widens_the_interval():
    def points(scatter):
        return [
            Point(size, "none", seed, 100 * (1 + 40 / size) * scatter**sign, False, [])
            for size in (4, 16, 64, 256)
            for seed, sign in enumerate((-1, 1))
        ]

    exact, noisy = fit(points(1.0), "none"), fit(points(1.05), "none")
    assert exact.critical == pytest.approx(40, rel=0.01)
    assert exact.least_steps == pytest.approx(100, rel=0.01)
    assert noisy.interval[0] < exact.interval[0] <= 40.4
    assert noisy.interval[1] > exact.interval[1] >= 39.6
    assert fit(points(1.05), "none", level=0.8).interval[1] < noisy.interval[1]


def test_intervals_hold_the_truth_as_often_as_they_say():
    torch.manual_seed(0)
    held, tries = 0, 150
    for _ in range(tries):
        noise = torch.randn(12, dtype=torch.float64).mul(0.08).exp().tolist()
        sizes = [4, 8, 16, 32, 64, 128] * 2
        points = [
            Point(size, "none", k, 50 * (1 + 30 / size) * factor, False, [])
            for k, (size, factor) in enumerate(zip(sizes, noise, strict=True))
        ]
        low, high = fit(points, "none", level=0.9).interval
        held += low <= 30 <= high
    assert 0.83 <= held / tries <= 0.97


def test_the_best_rule_is_taken_size_by_size():
    def steps(size, rule):
        return 100 * (1 + 40 / size) * (1.0 if (rule == "linear") == (size < 50) else 1.7)

    points = [
        Point(size, rule, seed, steps(size, rule), False, [])
        for size in (4, 16, 64, 256)
        for rule in ("none", "linear")
        for seed in (0, 1)
    ]
    lost = Point(8, "linear", 0, None, True, [])
    points += [lost, Point(8, "linear", 1, 1.0, False, [])]
    assert fit(points, "best").critical == pytest.approx(40, rel=0.01)


def test_a_rule_that_a_seed_does_not_get_through_is_left_out():
    points = [Point(size, "none", 0, 100.0, False, []) for size in (4, 8)]
    points += [Point(16, "none", 0, None, True, []), Point(16, "none", 1, 10.0, False, [])]
    with pytest.raises(ValueError, match=r"too few points .* 2 sizes \(4, 8\) .* rule none"):
        fit(points, "none")


@pytest.mark.parametrize(
    ("critical", "said"),
    [
        (1e9, "no upper end is known: try sizes above 64"),
        (1e-9, "no lower end is known: try sizes below 4"),
    ],
)
def test_an_interval_without_an_end_is_named(critical, said):
    points = [
        Point(size, "none", seed, 9 * (1 + critical / size) * (1 + 0.01 * seed), False, [])
        for size in (4, 16, 64)
        for seed in (0, 1)
    ]
    found = fit(points, "none")
    assert found.wide is not None
    assert said in found.wide
    assert "more --seeds" in found.wide
    assert critical < 1 or found.critical == math.inf


def test_crossings_are_interpolated_in_the_logarithm():
    curve = [(0, 4.0), (10, 1.0), (20, 2.0), (30, 0.5)]
    assert crossing(curve, 2.0) == pytest.approx(5.0)
    assert crossing(curve, 1.0) == 10.0
    assert crossing(curve, 0.1) is None
    assert crossing([(0, 1.0)], 2.0) == 0.0


def test_branches_that_diverge_are_seen():
    rising = [(0, 1.0), (1, 0.9), (2, 3.1), (3, 0.1)]
    assert follow(rising, 0.5) == ([(0, 1.0), (1, 0.9)], True)
    assert follow([(0, 1.0), (1, math.nan)], None) == ([(0, 1.0)], True)
    assert follow([(0, 1.0), (1, 0.4), (2, 0.1)], 0.5) == ([(0, 1.0), (1, 0.4)], False)


def test_a_run_that_does_not_progress_or_diverges_is_refused():
    def flat(size, rule, seed, target):
        return Point(size, rule, seed, None, False, [(0, 1.0), (9, 1.0)])

    with pytest.raises(ValueError, match="the loss does not fall from this checkpoint on"):
        measure(flat, size=8, sizes=[4, 8], rules=["none"], seeds=1)
    with pytest.raises(ValueError, match="the branches of the run's own size, 8, diverge: branch"):
        measure(quadratic(lambda size, rule: 2.5), size=8, sizes=[4, 8], rules=["none"], seeds=1)


def test_rules_have_powers_and_factors():
    assert [gain_of(rule, 4.0) for rule in ("none", "sqrt", "linear")] == [1.0, 2.0, 4.0]
    assert [gain_of(rule, 4.0) for rule in ("none*3", "sqrt*0.5", "linear*2")] == [3.0, 1.0, 8.0]
    for rule in ("cube", "linear*", "linear*-2", "linear*nan", ""):
        with pytest.raises(ValueError, match="must be none, sqrt, linear, or one of them with a"):
            gain_of(rule, 4.0)


def test_sizes_at_which_a_larger_rate_might_be_better_are_named():
    best = {4: "none", 16: "none", 64: "none", 256: "linear"}
    points = [
        Point(size, rule, 0, 10.0 if best[size] == rule else 20.0, False, [])
        for size in best
        for rule in ("none", "linear")
    ]
    told = limited(points, 16)
    assert told is not None
    assert told.startswith("at 4, 256 the largest learning rate tried was the best")
    inner = [
        Point(size, rule, 0, steps, False, [])
        for size in (4, 16)
        for rule, steps in (("none*0.5", 30.0), ("none", 10.0), ("none*2", 20.0))
    ]
    assert limited(inner, 16) is None


def test_factors_are_tried_at_the_runs_own_size_too():
    calls = []

    def branch(size, rule, seed, target):
        calls.append((size, rule, seed, target is None))
        curve = [(0, 1.0), (8, 0.5)]
        return Point(size, rule, seed, None if target is None else 4.0, False, curve)

    target, points = measure(branch, size=8, sizes=[8, 16], rules=["linear", "linear*2"], seeds=1)
    assert target == 0.5
    assert calls == [
        (8, "none", 0, True), (8, "linear*2", 0, False),
        (16, "linear", 0, False), (16, "linear*2", 0, False),
    ]  # fmt: skip
    assert [(point.size, point.rule) for point in points] == [
        (8, "linear"), (8, "linear*2"), (16, "linear"), (16, "linear*2")
    ]  # fmt: skip
