"""Measures cases on a device that is given: rounds, warm-up, time limits; knows no CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from gpu_contenders import COPY, Call
from gpu_plan import Case

from benchmarks.measuring.interleaved import Spread, ratio, spread

#: Rounds of a case: at least these, or it is left out; at most those.
FEWEST, MOST = 5, 60
WARM_UP = 3
#: Calls that follow one another without a pause are repeated until they take this long.
SHORTEST_SECONDS = 2e-3


class Device(Protocol):
    """What a device must be able to do."""

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        """Device time of one call, the mean of ``repeats``; caches emptied first if ``flush``."""

    def wait(self) -> None:
        """Return when the device has done all it was given."""

    def free(self) -> None:
        """Give unused memory back."""


@dataclass
class Result:
    """What came of a case.

    Attributes:
        case: which.
        seconds: of every contender, round by round.
        failed: contenders that raised, and what.
    """

    case: Case
    seconds: dict[str, list[float]]
    failed: dict[str, str] = field(default_factory=dict)

    def spread(self, name: str) -> Spread:
        """Median and quartiles of a contender's seconds."""
        return spread(self.seconds[name])

    def over_copy(self, name: str) -> Spread | None:
        """Median and quartiles of the rounds' ratios to the copy, where there is one."""
        if COPY not in self.seconds:
            return None
        return ratio(self.seconds[name], self.seconds[COPY])


@dataclass
class Results:
    """What came of all cases.

    Attributes:
        measured: in the order of the plan.
        left_out: titles of cases for which no time was left.
    """

    measured: list[Result] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def measure_all(
    cases: Iterable[Case],
    device: Device,
    *,
    deadline: float,
    now: Callable[[], float] = time.monotonic,
    tell: Callable[[str], None] = lambda _: None,
) -> Results:
    """Measure one case after another until ``deadline``, a time of ``now``."""
    results = Results()
    remaining = list(cases)
    while remaining:
        case = remaining.pop(0)
        share = (deadline - now()) / (len(remaining) + 1)
        tell(f"{case.op}: {case.title}")
        result = measure(case, device, until=now() + share, last=deadline, now=now)
        if result is None:
            results.left_out += [f"{left.op}: {left.title}" for left in [case, *remaining]]
            break
        results.measured.append(result)
        device.free()
    return results


def measure(
    case: Case,
    device: Device,
    *,
    until: float,
    last: float,
    now: Callable[[], float] = time.monotonic,
) -> Result | None:
    """Rounds of all contenders of a case, in an order that moves on by one each round.

    Args:
        case: what is measured.
        device: where.
        until: when the rounds end, once there are ``FEWEST``.
        last: when they end regardless; the case is left out if there are fewer.
        now: the clock of both.
    """
    if now() >= last:
        return None
    result = Result(case, {})
    repeats: dict[str, int] = {}
    try:
        contenders = case.contenders()
    except Exception as error:  # such as too little memory
        result.failed["setting up"] = _first_line(error)
        return result
    for name, call in contenders.items():
        try:
            repeats[name] = _warm_up(call, case, device)
        except Exception as error:
            result.failed[name] = _first_line(error)
    names = list(repeats)
    times: dict[str, list[float]] = {name: [] for name in names}
    rounds = 0
    while names and rounds < MOST and now() < (last if rounds < FEWEST else until):
        shift = rounds % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(device.seconds(contenders[name], repeats[name], flush=case.flush))
        rounds += 1
    if names and rounds < FEWEST:
        return None
    result.seconds = {name: times[name] for name in contenders if name in times}
    return result


def _warm_up(call: Call, case: Case, device: Device) -> int:
    """Compile, load and allocate; then how often to repeat a call."""
    for _ in range(WARM_UP):
        call()
    device.wait()
    if case.flush:
        return 1
    once = device.seconds(call, 1, flush=False)
    return max(1, round(SHORTEST_SECONDS / max(once, 1e-7)))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:120]}"
