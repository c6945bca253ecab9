"""Curves: a metric of a run along samples, steps or seconds; seeds as mean and standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from adadagrad_kernels.report.runs import Run
from adadagrad_kernels.statistics.noise_estimate import NoiseEstimate, RunningNoise

Array: TypeAlias = npt.NDArray[np.float64]
Points: TypeAlias = list[tuple[float, float]]
Band: TypeAlias = tuple[Points, Points]
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
        low: The lower end of its band, or None where it has none.
        high: The upper end, which may be infinite.
    """

    x: Array
    y: Array
    low: Array | None = None
    high: Array | None = None

    def after(self, start: float) -> Curve:
        """Returns the part that lies behind a place."""
        kept = self.x > start
        ends = (None if end is None else end[kept] for end in (self.low, self.high))
        return Curve(self.x[kept], self.y[kept], *ends)


def number(line: Line, name: str) -> float | None:
    """Returns a finite number, or None."""
    value = line.get(name)
    return None if value is None or not math.isfinite(value) else float(value)


def points(lines: Iterable[Line], axis: str, value: Callable[[Line], float | None]) -> Points:
    """Returns the places on an axis and the values there; of one place the last value counts."""
    return _along(axis, [(line, y) for line in lines if (y := value(line)) is not None])


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


def suggested_band(run: Run, axis: str) -> Band:
    """Returns the ends of the interval of T / b, where the run has error bars."""

    def end(name: str) -> Callable[[Line], float | None]:
        def ratio(line: Line) -> float | None:
            used = number(line, "batch/used")
            if name not in line or not used:
                return None
            return math.inf if line[name] is None else float(line[name]) / used

        return ratio

    lines = tested(run)
    low, high = (points(lines, axis, end(f"batch/suggested_{which}")) for which in ("low", "high"))
    return low, high


def noise_scale(run: Run, axis: str) -> Points:
    r"""Returns the noise scale, V_norm / (N - V_norm / b), of averages over tests.

    The noise scale of a single test is mostly noise, and infinite if its estimate of \|G\|² is not
    positive. So numerator and denominator are averaged separately, with weights that fall from
    test to test (McCandlish et al. 2018, appendix A.1); if the average is still not positive,
    there is no point.
    """
    found = [(line, e.noise / e.signal) for line, e, _ in _averages(run) if e.signal > 0 < e.noise]
    return _along(axis, found)


def noise_scale_band(run: Run, axis: str) -> Band:
    """Returns the ends of the interval of the same averages, where the run has error bars."""
    ends = [
        (line, estimate.scale_interval(level))
        for line, estimate, level in _averages(run)
        if level is not None and estimate.signal > 0 < estimate.noise
    ]
    low, high = (_along(axis, [(line, pair[which]) for line, pair in ends]) for which in (0, 1))
    return low, high


def _averages(run: Run) -> list[tuple[Line, NoiseEstimate, float | None]]:
    """The tests, the averages up to each, and the level of its error bars, if it has any."""
    running, found = RunningNoise(NOISE_MEMORY), []
    for line in tested(run):
        v, n, b = (number(line, name) for name in ("grad/var", "grad/norm_sq", "batch/used"))
        if v is None or n is None or not b:
            continue
        spread = [number(line, f"spread/{name}") or 0.0 for name in ("noise", "signal", "both")]
        average = running.add(NoiseEstimate(int(b), v, n - v / b, *spread))
        found.append((line, average, number(line, "spread/level")))
    return found


def _along(axis: str, values: Iterable[tuple[Line, float]]) -> Points:
    """Points on an axis; of one place the last value counts."""
    found = {x: value for line, value in values if (x := number(line, axis)) is not None}
    return sorted(found.items())


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
    mean = values.mean(axis=0)
    return Curve(grid, mean, mean - error, mean + error)


def with_band(curve: Curve, band: Band) -> Curve:
    """Returns the part of a run's curve that has a band, with it; the curve where none has."""
    low, high = (dict(end) for end in band)
    kept = np.array([x in low and x in high for x in curve.x], dtype=bool)
    if not kept.any():
        return curve
    x = curve.x[kept]
    return Curve(x, curve.y[kept], *(np.array([end[at] for at in x]) for end in (low, high)))


def _at(grid: Array, x: Array, y: Array, held: bool) -> Array:
    return y[np.searchsorted(x, grid)] if held else np.interp(grid, x, y)
