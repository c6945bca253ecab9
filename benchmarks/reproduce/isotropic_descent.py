"""Descent in noise of one variance in every direction, with tests that read inner products of it.

The deviations of b samples from their mean have b - 1 degrees of freedom in every direction. Along
the mean gradient and across it they are independent here, chi-squared with b - 1 and with
(b - 1)(d - 1) degrees of freedom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from adadagrad_kernels import (
    AdagradNorm,
    AugmentedInnerProductTest,
    BatchController,
    DelayedAdagradNorm,
    GradientStatistics,
    NormTest,
    SmallestOf,
)
from benchmarks.reproduce import closed_form

TARGETS = {"smallest": [1e-3]}


@dataclass(frozen=True)
class IsotropicNoise:
    """Noise whose variance is ``total``, in all directions together.

    Attributes:
        exact_tests: whether a test reads F's own gradient and the noise's own variances, and not
            those of the batch.
    """

    total: float
    generator: np.random.Generator
    exact_tests: bool = False

    def mean(self, exact: np.ndarray, batch: int) -> np.ndarray:
        """F's gradient and a Gaussian."""
        deviation = np.sqrt(self.total / len(exact) / batch)
        return exact + deviation * self.generator.standard_normal(len(exact))

    def statistics(self, exact: np.ndarray, mean: np.ndarray, batch: int) -> GradientStatistics:
        """Squared norms and inner products, by the sums of squared deviations."""
        along = float(batch - 1)
        across = along * (len(exact) - 1)
        gradient = exact
        if not self.exact_tests:
            along, across = self.generator.chisquare(along), self.generator.chisquare(across)
            gradient = mean
        variance = self.total / len(exact)
        squared = float(np.dot(gradient, gradient))
        return GradientStatistics(
            batch,
            squared,
            batch * squared + variance * (along + across),
            sum_sq_inner_products=squared * (batch * squared + variance * along),
        )


@dataclass(frozen=True)
class Descent:
    """A method on F, with noise of one variance in every direction, ``noise`` in all.

    Attributes:
        optimizer: ``delayed-adagrad-norm`` or ``adagrad-norm``.
        test: ``adabatchgrad`` with θ and ν, ``norm`` with η, or ``none``.
        constants: of the test.
        exact: whether the test reads F's own gradient and the noise's own variance.
    """

    optimizer: str
    test: str
    constants: tuple[float, ...]
    dimension: int
    steps: int
    exact: bool = False
    batch_size: int = 4
    power: float = 1.5
    noise: float = 1.0

    def run(self, derivative: Callable[[np.ndarray], np.ndarray], seed: int) -> dict[str, Any]:
        """What ``closed_form.descend`` gives."""
        generator = np.random.default_rng(seed)
        weights = closed_form.weights(self.dimension, self.power)
        point = closed_form.start(self.dimension, generator)
        optimizers = {"delayed-adagrad-norm": DelayedAdagradNorm, "adagrad-norm": AdagradNorm}
        tests: dict[str, Callable[..., Any]] = {
            "adabatchgrad": lambda *found: SmallestOf(AugmentedInnerProductTest(*found)),
            "norm": NormTest,
            "none": lambda: None,
        }
        return closed_form.descend(
            point,
            lambda x: weights * derivative(x),
            IsotropicNoise(self.noise, generator, self.exact),
            optimizers[self.optimizer]([point], lr=1.0),
            BatchController(
                tests[self.test](*self.constants),
                batch_size=self.batch_size,
                max_batch_size=closed_form.LARGEST_BATCH,
            ),
            steps=self.steps,
            targets=TARGETS,
        )
