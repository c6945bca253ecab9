"""The critical batch, from the steps that branches of several sizes take to one loss.

A branch goes on from one checkpoint at a batch size and a learning rate of its own (Merrill et al.,
arXiv 2505.23971). They compare losses after equal samples; here the steps to a target loss are
fitted, as McCandlish et al. (arXiv 1812.06162, eq. 2.11) have them over whole runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from adadagrad_kernels.statistics.noise_estimate import Interval, quantile

#: Steps and loss, at every evaluation of a branch.
Curve: TypeAlias = list[tuple[int, float]]
#: The power of the batch, over the run's own, with which its learning rate goes.
RULES = {"none": 0.0, "sqrt": 0.5, "linear": 1.0}
#: Fewer sizes than that say nothing of a curve with two constants.
FEWEST_SIZES = 3
#: A branch whose loss is so many times the loss at its start has diverged.
DIVERGED = 3.0
#: Between these, per size tried, the critical batch is looked for.
_RANGE = 1e4


@dataclass(frozen=True)
class Point:
    """What one branch came to.

    Attributes:
        size: its batch.
        rule: its learning-rate rule.
        seed: of the order of its samples.
        steps: to the target loss, interpolated between evaluations; None where it was not reached.
        diverged: whether its loss left the range of losses.
        curve: its losses.
    """

    size: int
    rule: str
    seed: int
    steps: float | None
    diverged: bool
    curve: Curve


@dataclass(frozen=True)
class Fit:
    r"""Steps to a loss against the batch, :math:`S(B) = S_{\min} (1 + B_c / B)`.

    At :math:`B_c` twice the batch takes three quarters of the steps, half way between the half of
    them (far below it) and all of them (far above).

    Attributes:
        rule: the learning-rate rule of the branches, or ``"best"``, the best of them at every size.
        critical: :math:`B_c`; infinite where the steps fall as 1 / B at all sizes.
        interval: of it.
        least_steps: :math:`S_{\min}`.
        level: of confidence.
        wide: why the interval is too wide to go by, and what to do; None where it is not.
    """

    rule: str
    critical: float
    interval: Interval
    least_steps: float
    level: float
    wide: str | None

    def steps(self, size: float) -> float:
        """S(B)."""
        return self.least_steps * (1.0 + self.critical / size)


def gain_of(rule: str, growth: float) -> float:
    """The factor of the learning rate of a batch that is ``growth`` times the run's.

    Args:
        rule: one of ``RULES``, or one with a factor of its own, such as ``linear*4``.
        growth: of the batch.

    Raises:
        ValueError: for another rule.
    """
    name, star, factor = rule.partition("*")
    if name not in RULES or (star and not factor.replace(".", "", 1).isdigit()):
        raise ValueError(
            f"a rule of the learning rate must be {', '.join(RULES)}, or one of them with a factor "
            f"such as linear*4, got {rule!r}"
        )
    return float(growth ** RULES[name] * (float(factor) if star else 1.0))


def limited(points: Sequence[Point], size: int) -> str | None:
    """Says where the largest learning rate that was tried was the best, if that is so.

    Steps would be fewer with a larger one there, and the critical batch another.

    Args:
        points: of all rules and seeds.
        size: the run's own.
    """
    at_edge = []
    for other in sorted({point.size for point in points}):
        own = [point for point in points if point.size == other]
        gains = {point.rule: gain_of(point.rule, other / size) for point in own}
        best = _best(own)
        if best is not None and len(set(gains.values())) > 1:
            at_edge += [other] if gains[best] >= max(gains.values()) else []
    if not at_edge:
        return None
    return (
        f"at {', '.join(f'{other:,}' for other in at_edge)} the largest learning rate tried was "
        "the best, so that steps may be fewer there, and the critical batch another: try more "
        "--rules, such as linear*4"
    )


def crossing(curve: Curve, target: float) -> float | None:
    """Steps after which a loss first is at or below a target; None where it never is.

    Between two evaluations the logarithm of the loss is taken as a straight line.
    """
    before: tuple[int, float] | None = None
    for steps, loss in curve:
        if loss <= target:
            if before is None or before[1] <= loss:
                return float(steps)
            share = math.log(before[1] / target) / math.log(before[1] / loss)
            return before[0] + share * (steps - before[0])
        before = (steps, loss)
    return None


def follow(losses: Iterable[tuple[int, float]], target: float | None) -> tuple[Curve, bool]:
    """Takes a branch's losses until the target is reached, or they diverge.

    Args:
        losses: steps and loss, the loss at 0 steps first.
        target: None goes to the end.

    Returns:
        The losses, and whether they diverged.
    """
    curve: Curve = []
    for steps, loss in losses:
        if not math.isfinite(loss) or (curve and loss > DIVERGED * curve[0][1]):
            return curve, True
        curve.append((steps, loss))
        if target is not None and loss <= target:
            break
    return curve, False


def target_of(curves: Sequence[Curve]) -> float:
    """The loss that all branches of the run's own size reach: the highest mean of a last quarter.

    Raises:
        ValueError: where that is no progress.
    """
    ends = [curve[-max(1, len(curve) // 4) :] for curve in curves]
    target = max(sum(loss for _, loss in end) / len(end) for end in ends)
    start = sum(curve[0][1] for curve in curves) / len(curves)
    if not target < start:
        raise ValueError(
            f"the loss does not fall from this checkpoint on: {start:.6g} at first, and "
            f"{target:.6g} at the end of branches of the run's own size. Branch an earlier "
            "checkpoint, or give more --samples"
        )
    return target


def fit(points: Sequence[Point], rule: str, level: float = 0.95) -> Fit:
    r"""Fits the critical batch to what branches came to.

    Least squares of :math:`\log S`; the interval holds every :math:`B_c` whose squares, with the
    best :math:`S_{\min}` for it, exceed the least by no more than the factor
    :math:`1 + t^2 / (n - 2)`.

    Args:
        points: of all rules and seeds.
        rule: whose to take, or ``"best"``: at every size the rule with the fewest steps on average.
        level: of confidence.

    Raises:
        ValueError: for fewer than three sizes that reached the target.
    """
    reached = _of_rule(points, rule)
    sizes = sorted({size for size, _ in reached})
    if len(sizes) < FEWEST_SIZES:
        raise ValueError(
            f"too few points for a fit: branches of {len(sizes)} sizes "
            f"({', '.join(map(str, sizes)) or 'none'}) reached the target with rule {rule}, and "
            f"{FEWEST_SIZES} are needed. Give more --sizes, a larger --most, or another --rules"
        )
    logs = [(size, math.log(steps)) for size, steps in reached]
    low, high = sizes[0] / _RANGE, sizes[-1] * _RANGE
    # Evenly in the logarithm: 1 % from one to the next.
    count = int(math.log(high / low) / 0.01)
    grid = [low * (high / low) ** (k / count) for k in range(count + 1)]
    squares = [_squares(logs, critical) for critical in grid]
    least = min(squares)
    critical = grid[squares.index(least)]
    freedom = len(logs) - 2
    # Steps are known to no better than this, whatever their scatter: it keeps exact data apart.
    noise = max(least / freedom, 1e-12)
    bound = least + quantile(level, max(3, freedom)) ** 2 * noise
    inside = [place for place, value in enumerate(squares) if value <= bound]
    first, last = inside[0], inside[-1]
    interval = (0.0 if first == 0 else grid[first], math.inf if last == count else grid[last])
    mean = sum(log - math.log1p(critical / size) for size, log in logs) / len(logs)
    if critical >= grid[-2]:
        critical = math.inf
    return Fit(rule, critical, interval, math.exp(mean), level, _wide(interval, sizes))


def _of_rule(points: Sequence[Point], rule: str) -> list[tuple[int, float]]:
    """Size and steps of every seed; of the best rule at every size, if that is asked for."""
    reached = []
    for size in sorted({point.size for point in points}):
        own = [point for point in points if point.size == size and rule in ("best", point.rule)]
        best = _best(own)
        reached += [
            (size, point.steps) for point in own if point.rule == best and point.steps is not None
        ]
    return reached


def _best(points: Sequence[Point]) -> str | None:
    """The rule with the fewest steps, of those all of whose seeds reached the target."""
    logs: dict[str, list[float]] = {}
    for point in points:
        logs.setdefault(point.rule, []).append(math.log(point.steps or math.inf))
    whole = {rule: sum(each) / len(each) for rule, each in logs.items() if math.inf not in each}
    return min(whole, key=lambda rule: whole[rule]) if whole else None


def _squares(logs: Sequence[tuple[int, float]], critical: float) -> float:
    rests = [log - math.log1p(critical / size) for size, log in logs]
    mean = sum(rests) / len(rests)
    return sum((rest - mean) ** 2 for rest in rests)


def _wide(interval: Interval, sizes: Sequence[int]) -> str | None:
    low, high = interval
    if high <= 10.0 * low:
        return None
    if low == 0.0 and high == math.inf:
        what = "anything is possible"
    elif high == math.inf:
        what = f"it is above {low:,.3g}, and no upper end is known: try sizes above {sizes[-1]:,}"
    elif low == 0.0:
        what = f"it is below {high:,.3g}, and no lower end is known: try sizes below {sizes[0]:,}"
    else:
        what = f"its ends are a factor of {high / low:,.0f} apart"
    return f"the interval is too wide to go by: {what}; more --seeds, or more --samples, narrow it"


def measure(
    branch: Callable[[int, str, int, float | None], Point],
    *,
    size: int,
    sizes: Sequence[int],
    rules: Sequence[str],
    seeds: int,
) -> tuple[float, list[Point]]:
    """Runs all branches: those of the run's own size set the target.

    Args:
        branch: runs one, of a size, a rule and a seed, to a target or, without, to its end.
        size: the run's own.
        sizes: all of them.
        rules: of the learning rate; at the run's own size those without a factor are one.
        seeds: branches of every size and rule.

    Returns:
        The target, and what every branch came to.

    Raises:
        ValueError: where the run's own size does not progress, or diverges.
    """
    own = [branch(size, "none", seed, None) for seed in range(seeds)]
    if any(point.diverged for point in own):
        raise ValueError(
            f"the branches of the run's own size, {size}, diverge: branch an earlier checkpoint, "
            "or one of a run with a lower learning rate"
        )
    target = target_of([point.curve for point in own])
    points = []
    for point in own:
        steps = crossing(point.curve, target)
        points += [
            Point(size, rule, point.seed, steps, False, point.curve)
            for rule in rules
            if "*" not in rule
        ]
    for other in sorted({size, *sizes}):
        asked = rules if other != size else [rule for rule in rules if "*" in rule]
        points += [branch(other, rule, seed, target) for rule in asked for seed in range(seeds)]
    return target, points
