"""Ratios that a noisy machine cannot fake: every contender once per round, ratios per round.

Whatever slows the machine down for a while slows all contenders of the round; the median over
rounds leaves out the rounds it hit unevenly, and the quartiles say how many those were.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch

Meter = Callable[[Callable[[], object]], float]

#: Calls shorter than this are repeated, so that the clock and the loop do not count.
SHORTEST_SECONDS = 5e-3
#: Calls longer than this are not called a second time to see how long they take.
LONG_SECONDS = 1.0


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    lower: float
    upper: float


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Wall-clock time of one call, the mean of ``repeats``."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def rounds_of_seconds(
    contenders: dict[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of every contender in every round, in an order that moves on by one each round."""
    repeats = {}
    for name, call in contenders.items():
        once = seconds(call)  # first calls allocate, compile and fault pages in
        if once < LONG_SECONDS:
            once = seconds(call)
        repeats[name] = max(1, round(SHORTEST_SECONDS / max(once, 1e-9)))
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(rounds):
        shift = round_ % len(names)
        for name in names[shift:] + names[:shift]:
            times[name].append(seconds(contenders[name], repeats[name]))
    return times


def spread(values: list[float]) -> Spread:
    """Median and quartiles of at least two values."""
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


def ratio(ours: list[float], over: list[float]) -> Spread:
    """The spread of round-by-round ratios."""
    return spread([a / b for a, b in zip(ours, over, strict=True)])


def fastest(contenders: dict[str, Callable[[], object]]) -> str:
    """The contender that wins the better of two calls, to compare with the best one only."""
    best = {name: min(seconds(call), seconds(call)) for name, call in contenders.items()}
    return min(best, key=best.__getitem__)


def peak_bytes(call: Callable[[], object]) -> float:
    """By how much the process's resident memory rose above its level, at most, during a call.

    Read from Linux's ``VmHWM``, which ``clear_refs`` resets, so that memory which kernels take
    without torch's knowledge counts too. What earlier calls have freed goes back to the system
    first, or it would serve this one unseen. At least a page, the finest that can be told: small
    calls may find room in what the process holds.
    """
    call()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = call()
    peak = _resident("VmHWM")
    del result
    return max(float(os.sysconf("SC_PAGE_SIZE")), peak - before)


def allocated_bytes(call: Callable[[], object]) -> float:
    """Most bytes that torch's allocator had given out at a time during a call, above its start.

    Read from the profiler, so it is the same number every time, whatever the system's allocator
    keeps; scratch memory of MKL, oneDNN and this package's kernels is not in it.
    """
    call()
    # The profiler would remark on every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        result = call()
    del result
    events = profile.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    return float(max(accumulate((size for _, size in changes), initial=0)))


def _resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"this system's /proc/self/status has no {field}")
