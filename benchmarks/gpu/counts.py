"""What a call asks of a device: kernels launched, and waits of the host; by torch's profiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import torch

Call = Callable[[], object]

#: Parts of the names of what the host calls, as the profiler has them.
LAUNCHES = ("LaunchKernel", "GraphLaunch")
WAITS = ("Synchronize",)
#: On a CPU, in their place: operators, and those that read a number of a tensor.
OPERATORS, READS = ("aten::",), ("aten::_local_scalar_dense",)


class Counts(NamedTuple):
    """Of one call.

    Attributes:
        launches: of kernels; None where the profiler sees no device.
        waits: times the host waited for the device, or None likewise.
        where: the lines of Python at which torch waited, and how often.
    """

    launches: int | None
    waits: int | None
    where: dict[str, int]


def counted(
    call: Call, activity: torch.profiler.ProfilerActivity, wait: Callable[[], None]
) -> Counts:
    """Count what a call launches and how often it waits, less what the profiler itself does."""
    wait()
    alone, names = _profiled(lambda: None, activity), _profiled(call, activity)
    launches, waits = (OPERATORS, READS) if _is_cpu(activity) else (LAUNCHES, WAITS)
    counts = [_count(names, kinds) - _count(alone, kinds) for kinds in (launches, waits)]
    if not counts[0]:
        return Counts(None, None, {})
    return Counts(*counts, {})


def _is_cpu(activity: torch.profiler.ProfilerActivity) -> bool:
    return activity == torch.profiler.ProfilerActivity.CPU


def _count(names: list[str], kinds: tuple[str, ...]) -> int:
    return sum(any(kind in name for kind in kinds) for name in names)


def _profiled(call: Call, activity: torch.profiler.ProfilerActivity) -> list[str]:
    """Names of all events during a call."""
    # The profiler would remark on every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = list({torch.profiler.ProfilerActivity.CPU, activity})
    with torch.profiler.profile(activities=activities) as seen:
        result = call()
    del result
    return [event.name() for event in seen.profiler.kineto_results.events()]
