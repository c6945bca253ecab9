"""Measures cases on a device that is given: rounds, warm-up, time limits; knows no CUDA."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from benchmarks.gpu.contenders import COPY
from benchmarks.gpu.counts import Call, Counts
from benchmarks.gpu.plan import Case
from benchmarks.measuring.interleaved import ratio, spread

#: Rounds of a case: at least these, or it is left out; at most those.
FEWEST, MOST = 5, 60
WARM_UP = 3
#: Calls that follow one another without a pause are repeated until they take this long.
SHORTEST_SECONDS = 2e-3


class Device(Protocol):
    """What a device must be able to do."""

    name: str

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        """Device time of one call, the mean of ``repeats``; caches emptied first if ``flush``."""

    def wait(self) -> None:
        """Return when the device has done all it was given."""

    def free(self) -> None:
        """Give unused memory back."""

    def free_bytes(self) -> int:
        """Memory that is not taken."""

    def peak_bytes(self, call: Call) -> float:
        """Most memory given out during a call, above its start."""

    def counts(self, call: Call) -> Counts:
        """Launches and waits of a call."""

    def facts(self) -> dict[str, str]:
        """What a reader must know of the device and the software."""


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

    def record(self) -> dict[str, Any]:
        """Times of every contender, their spread, and that of the ratios to the copy."""
        return {
            "op": self.case.op,
            "case": self.case.title,
            "least_bytes": self.case.least_bytes,
            "flush": self.case.flush,
            "contenders": {name: self._contender(name) for name in self.seconds},
            "failed": self.failed,
        }

    def _contender(self, name: str) -> dict[str, Any]:
        times = self.seconds[name]
        found: dict[str, Any] = {"seconds": times, "spread": spread(times)}
        if COPY in self.seconds and name != COPY:
            found["over_copy"] = ratio(times, self.seconds[COPY])
        return found


@dataclass(frozen=True)
class LeftOut:
    """A case for which no time was left."""

    case: Case


def measure_all(
    cases: Iterable[Case],
    device: Device,
    *,
    deadline: float,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Result | LeftOut]:
    """Measure one case after another until ``deadline``, a time of ``now``; give each when done."""
    remaining = list(cases)
    while remaining:
        case = remaining.pop(0)
        share = (deadline - now()) / (len(remaining) + 1)
        result = measure(case, device, until=now() + share, last=deadline, now=now)
        if result is None:
            yield from map(LeftOut, [case, *remaining])
            return
        yield result
        device.free()


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
