"""Descent on functions in closed form, whose batches are drawn from their laws.

F(x) = sum_j w_j f(x_j) with w_j = j^-power: it is F's flat directions that a rate is about, and the
weights make decay a power of the steps, not exponential. The gradient of a sample is that of F and
Gaussian noise. So the mean gradient of a batch and its samples' deviations from it are independent,
and all that a test reads of them is drawn exactly, at a cost that does not depend on the batch,
which grows without bound here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from adadagrad_kernels import BatchController, GradientStatistics
from benchmarks.reproduce.targets import Targets

#: No size is above this, at which the chi-squared variables are still exact to the last digit.
LARGEST_BATCH = 2**50
#: Steps at which the smallest and the mean squared norm are kept: the places of a line.
PLACES = 41


def bounded(x: np.ndarray) -> np.ndarray:
    """Derivative of x² / (1 + x²): concave away from zero, curvature at most 2."""
    return 2 * x / np.square(1 + np.square(x))


def double_well(x: np.ndarray) -> np.ndarray:
    """Derivative of (x² - 1)² / 4: its curvature, 3 x² - 1, grows with the gradient."""
    return x * (np.square(x) - 1)


FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "smooth, Σ w x² / (1 + x²)": bounded,
    "(L0, L1)-smooth, Σ w (x² − 1)² / 4": double_well,
}


def weights(dimension: int, power: float) -> np.ndarray:
    """Those of F."""
    return np.arange(1.0, dimension + 1) ** -power


def start(dimension: int, generator: np.random.Generator) -> nn.Parameter:
    """A point to begin at, away from where the gradient vanishes."""
    signs = generator.choice([-1.0, 1.0], dimension)
    return nn.Parameter(torch.from_numpy(signs * generator.uniform(1.2, 1.8, dimension)))


class Noise(Protocol):
    """What samples add to F's gradient."""

    def mean(self, exact: np.ndarray, batch: int) -> np.ndarray:
        """Draw the mean gradient of a batch around F's."""

    def statistics(self, exact: np.ndarray, mean: np.ndarray, batch: int) -> GradientStatistics:
        """Draw what a test reads of a batch with this mean gradient."""


def descend(
    point: nn.Parameter,
    gradient: Callable[[np.ndarray], np.ndarray],
    noise: Noise,
    optimizer: torch.optim.Optimizer,
    controller: BatchController,
    *,
    steps: int,
    targets: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Squared norms of F's gradient at places evenly spaced in the logarithm of the steps."""
    places = set(np.geomspace(steps / 10, steps, PLACES).astype(int).tolist())
    smallest, total, line = np.inf, 0.0, []
    reached = Targets(targets)
    seconds = 0.0
    for step in range(1, steps + 1):
        started = time.perf_counter()
        batch = controller.batch_size
        exact = gradient(point.detach().numpy())
        mean = noise.mean(exact, batch)
        point.grad = torch.from_numpy(mean)
        squared = float(np.dot(exact, exact))
        if controller.criterion is None:
            controller.step(batch)
        else:
            controller.update(noise.statistics(exact, mean, batch))
        optimizer.step()
        seconds += time.perf_counter() - started
        smallest, total = min(smallest, squared), total + squared
        counts = {"steps": step, "samples": controller.samples_seen, "seconds": seconds}
        reached.see({"smallest": smallest}, counts)
        if step in places:
            line.append([step, smallest, total / step, controller.samples_seen])
    return {
        "line": line,
        "slope": slope(line, 1),
        "slope_of_mean": slope(line, 2),
        "samples": controller.samples_seen,
        "seconds": seconds,
        "targets": reached.reached,
    }


def slope(line: list[list[float]], column: int) -> float:
    """Of the logarithm of a column against that of the first, by least squares."""
    found = np.log(np.array(line, dtype=float))
    return float(np.polyfit(found[:, 0], found[:, column], 1)[0])


def last_batch(line: list[list[float]]) -> float:
    """The average batch between the last two places."""
    (before, *_, drawn), (step, *_, samples) = line[-2:]
    return (samples - drawn) / (step - before)
