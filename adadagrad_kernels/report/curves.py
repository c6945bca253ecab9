"""Curves: a metric of a run along samples, steps or seconds; seeds as mean and standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from adadagrad_kernels.averages import RunningAverage
from adadagrad_kernels.report.runs import Run

Array: TypeAlias = npt.NDArray[np.float64]
Points: TypeAlias = list[tuple[float, float]]
Line: TypeAlias = dict[str, Any]

# Of the latest test: two lines with equal values report the same test.
_OF_A_TEST = ("batch/suggested", "grad/norm_sq", "grad/var")
# How much of the average of earlier tests stays at each test.
NOISE_MEMORY = 0.9


@dataclass(frozen=True)
class Curve:
    """A curve with its band.

    Attributes:
        x: Samples, steps or seconds, ascending.
        y: The mean over the seeds.
        error: The standard error of that mean, or None of a single seed.
    """

    x: Array
    y: Array
    error: Array | None = None

    def after(self, start: float) -> Curve:
        """Returns the part that lies behind a place."""
        kept = self.x > start
        return Curve(self.x[kept], self.y[kept], None if self.error is None else self.error[kept])


def number(line: Line, name: str) -> float | None:
    """Returns a finite number, or None."""
    value = line.get(name)
    return None if value is None or not math.isfinite(value) else float(value)


def points(lines: Iterable[Line], axis: str, value: Callable[[Line], float | None]) -> Points:
    """Returns the places on an axis and the values there; of one place the last value counts."""
    found: dict[float, float] = {}
    for line in lines:
        x, y = number(line, axis), value(line)
        if x is not None and y is not None:
            found[x] = y
    return sorted(found.items())


def metric(name: str) -> Callable[[Run, str], Points]:
    """Returns what finds the points of a metric."""
    return lambda run, axis: points(run.lines, axis, lambda line: number(line, name))


def batch_size(run: Run, axis: str) -> Points:
    """Returns the sizes of the batches, without those that the end of the budget cut."""
    sizes = [(line, size) for line in run.lines if (size := number(line, "batch/used"))]
    while len(sizes) > 1 and sizes[-1][1] < max(size for _, size in sizes):
        sizes.pop()
    return points([line for line, _ in sizes], axis, lambda line: number(line, "batch/used"))


def is_untested(run: Run) -> bool:
    """Whether the run made no test."""
    return not any("batch/suggested" in line for line in run.lines)


def tested(run: Run) -> list[Line]:
    """Returns the lines with a new test."""
    lines, latest = [], None
    for line in run.lines:
        test = tuple(line.get(name) for name in _OF_A_TEST)
        if any(name in line for name in _OF_A_TEST) and test != latest and "batch/used" in line:
            lines.append(line)
            latest = test
    return lines


def suggested_ratio(run: Run, axis: str) -> Points:
    """Returns T / b: the size that a test suggests, by the size of the batch it was made on."""

    def ratio(line: Line) -> float | None:
        suggested, used = number(line, "batch/suggested"), number(line, "batch/used")
        return suggested / used if suggested and used else None

    return points(tested(run), axis, ratio)


def constant_ratio(constant: str) -> Callable[[Run, str], Points]:
    """Returns what finds the smallest constant with which a test passes, by the constant it has.

    Without ``test/<constant>`` in the metrics it is the smallest constant itself.
    """

    def ratio(line: Line) -> float | None:
        smallest = number(line, f"test/{constant}_min")
        return smallest / (number(line, f"test/{constant}") or 1.0) if smallest else None

    return lambda run, axis: points(tested(run), axis, ratio)


def noise_scale(run: Run, axis: str) -> Points:
    r"""Returns the noise scale, V_norm / (N - V_norm / b), of averages over tests.

    The noise scale of a single test is mostly noise, and infinite if its estimate of \|G\|² is not
    positive. So numerator and denominator are averaged separately, with weights that fall from
    test to test (McCandlish et al. 2018, appendix A.1); if the average is still not positive,
    there is no point.
    """
    variance, signal = RunningAverage(NOISE_MEMORY), RunningAverage(NOISE_MEMORY)
    scales: dict[int, float] = {}
    lines = tested(run)
    for place, line in enumerate(lines):
        v, n, b = (number(line, name) for name in ("grad/var", "grad/norm_sq", "batch/used"))
        if v is None or n is None or not b:
            continue
        above, below = variance.add(v), signal.add(n - v / b)
        if above > 0 and below > 0:
            scales[place] = above / below
    places = {id(line): place for place, line in enumerate(lines)}
    return points(lines, axis, lambda line: scales.get(places[id(line)]))


def mean_curve(seeds: Sequence[Points], *, held: bool = False) -> Curve | None:
    """Joins seeds to one curve, over the part of the axis that all of them reach.

    Between its points a seed is interpolated linearly.

    Args:
        seeds: Points of each seed; those without any are left out.
        held: The metric stays the same between two points, with the value of the later one.
    """
    curves = [np.array(seed, dtype=np.float64).T for seed in seeds if seed]
    if not curves:
        return None
    if len(curves) == 1:
        return Curve(*curves[0])
    first, last = max(x[0] for x, _ in curves), min(x[-1] for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    if not len(grid):
        return None
    values = np.stack([_at(grid, x, y, held) for x, y in curves])
    error = values.std(axis=0, ddof=1) / math.sqrt(len(curves))
    return Curve(grid, values.mean(axis=0), error)


def _at(grid: Array, x: Array, y: Array, held: bool) -> Array:
    return y[np.searchsorted(x, grid)] if held else np.interp(grid, x, y)
