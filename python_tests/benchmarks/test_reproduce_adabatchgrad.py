"""AdaBatchGrad's experiment: what its tests read of drawn batches, and the descent written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from adadagrad_kernels import GradientStatistics
from benchmarks.reproduce import adabatchgrad, closed_form
from benchmarks.reproduce.isotropic_descent import Descent, IsotropicNoise

BATCH, DIMENSION, TOTAL = 6, 5, 3.0
VARIANCE = TOTAL / DIMENSION


def moments(records: list[GradientStatistics]) -> np.ndarray:
    """Means and variances of V_ip / N and V_orth, and how far they go together."""
    along = np.array([r.inner_product_variance / r.mean_sq_norm for r in records])
    across = np.array([r.orthogonal_variance for r in records])
    together = np.corrcoef(along, across)[0, 1]
    return np.array([along.mean(), along.var(), across.mean(), across.var(), 1 + together])


def test_what_is_drawn_has_the_law_of_samples() -> None:
    """Against samples that are there, one by one, and against the chi-squared moments."""
    exact = np.linspace(-1.0, 2.0, DIMENSION)
    generator = np.random.default_rng(0)
    noise = IsotropicNoise(TOTAL, np.random.default_rng(1))
    drawn, sampled = [], []
    for _ in range(20_000):
        mean = noise.mean(exact, BATCH)
        drawn.append(noise.statistics(exact, mean, BATCH))
        gradients = exact + math.sqrt(VARIANCE) * generator.standard_normal((BATCH, DIMENSION))
        mean = gradients.mean(0)
        sampled.append(
            GradientStatistics(
                BATCH,
                float(mean @ mean),
                float(np.square(gradients).sum()),
                sum_sq_inner_products=float(np.square(gradients @ mean).sum()),
            )
        )
    freedom = BATCH - 1
    expected = [VARIANCE, 2 * VARIANCE**2 / freedom]
    expected += [(DIMENSION - 1) * value for value in expected] + [1.0]
    np.testing.assert_allclose(moments(drawn), expected, rtol=0.04)
    np.testing.assert_allclose(moments(sampled), expected, rtol=0.04)
    norms = [np.mean([r.mean_sq_norm for r in records]) for records in (drawn, sampled)]
    np.testing.assert_allclose(norms, exact @ exact + TOTAL / BATCH, rtol=0.02)


def test_an_exact_test_reads_the_gradient_and_the_variances_themselves() -> None:
    exact = np.array([3.0, 4.0])
    noise = IsotropicNoise(0.5, np.random.default_rng(0), exact_tests=True)
    found = noise.statistics(exact, noise.mean(exact, 8), 8)
    assert found.mean_sq_norm == 25.0
    assert found.variance_norm == pytest.approx(0.5)
    assert found.inner_product_variance == pytest.approx(25 * 0.25)
    assert found.orthogonal_variance == pytest.approx(0.25)


def test_the_descent_of_the_delayed_step() -> None:
    """Without noise it is x - g / sqrt(1 + the squared norms before)."""
    still = Descent("delayed-adagrad-norm", "none", (), 3, 40, noise=0.0)
    found = still.run(closed_form.double_well, 0)
    generator = np.random.default_rng(0)
    x = generator.choice([-1.0, 1.0], 3) * generator.uniform(1.2, 1.8, 3)
    total, smallest = 1.0, math.inf
    for _ in range(40):
        gradient = x * (x**2 - 1) / np.arange(1, 4) ** 1.5
        x = x - gradient / math.sqrt(total)
        total += float(gradient @ gradient)
        smallest = min(smallest, float(gradient @ gradient))
    assert found["line"][-1][1] == pytest.approx(smallest, rel=1e-9)


def test_the_published_constants_grow_the_batch_by_exact_tests_alone() -> None:
    """While noise dominates N is V / b and above, so a test with nu above 1 holds of any batch."""
    last = {}
    for exact in (False, True):
        descent = Descent(
            "delayed-adagrad-norm", "adabatchgrad", adabatchgrad.DEFAULTS, 500, 400, exact=exact
        )
        last[exact] = closed_form.last_batch(descent.run(closed_form.bounded, 0)["line"])
    assert last[False] == 4
    assert last[True] > 8


def test_all_methods_differ_in_what_the_paper_combines() -> None:
    """Step size and test, each alone and both, at every learning rate."""
    plans = adabatchgrad.plans(adabatchgrad.SIZES["machine"])
    found = {(p.optimizer["kind"], bool(p.growth), p.optimizer["lr"]) for p in plans}
    wanted = {
        (kind, grows, rate)
        for kind in ("sgd", "delayed-adagrad-norm")
        for grows in (False, True)
        for rate in adabatchgrad.RATES
    }
    assert wanted <= found
    assert len({plan.method for plan in plans}) == len(plans)
