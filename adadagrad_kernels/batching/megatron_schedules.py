"""Megatron's two ways to write a batch-size schedule."""

from __future__ import annotations

import re

from adadagrad_kernels.batching.schedules import MilestoneSchedule
from adadagrad_kernels.settings import require_int

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_STEP = re.compile(r"(\d+(?:\.\d+)?)([KMBT]?):(\d+)")


def megatron_schedule(text: str, *, tokens_per_sample: int = 1) -> MilestoneSchedule:
    """The schedule that a text in Megatron-LM's step grammar describes.

    ``"0:768 250B:1536"`` is a size of 768 from the beginning and of 1,536 from 250 billion on, with
    K, M, B and T for 10^3, 10^6, 10^9 and 10^12.

    Args:
        text: steps ``FROM:SIZE``, separated by spaces, in rising order, the first from 0.
        tokens_per_sample: the sequence length, where the text counts tokens; else samples are
            counted. A step holds from the first sample at which its tokens have been seen.

    Raises:
        ValueError: naming the step that is malformed, out of order, or smaller than its
            predecessor.

    Example:
        >>> from adadagrad_kernels.batching import megatron_schedule
        >>> dict(megatron_schedule("0:768 250B:1536", tokens_per_sample=4096).milestones)
        {0: 768, 61035157: 1536}
    """
    tokens_per_sample = require_int("tokens_per_sample", tokens_per_sample, at_least=1)
    milestones: dict[int, int] = {}
    for step in text.split():
        match = _STEP.fullmatch(step)
        if match is None:
            raise ValueError(
                f"step {step!r} of the schedule {text!r} is not accepted: write FROM:SIZE, such as "
                "250B:1536, with K, M, B or T after the number"
            )
        start = -(-round(float(match[1]) * _UNITS[match[2]]) // tokens_per_sample)
        if milestones and start <= max(milestones):
            raise ValueError(
                f"step {step!r} of the schedule {text!r} does not begin after the one before it: "
                "list the steps in rising order"
            )
        size = require_int(f"the size of step {step!r}", int(match[3]), at_least=1)
        if milestones and size < max(milestones.values()):
            raise ValueError(
                f"step {step!r} of the schedule {text!r} is smaller than the one before it: "
                "a schedule may only grow, so give sizes in rising order"
            )
        milestones[start] = size
    return MilestoneSchedule(milestones)


def megatron_rampup(start: int, increment: int, samples: int, target: int) -> MilestoneSchedule:
    """The schedule of ``--rampup-batch-size START INCREMENT SAMPLES`` and ``--global-batch-size``.

    The size grows from ``start`` to ``target`` in steps of ``increment``, after equal numbers of
    samples, and is ``target`` from ``samples`` on.

    Raises:
        ValueError: where the increments do not lead from start to target.

    Example:
        >>> from adadagrad_kernels.batching import megatron_rampup
        >>> dict(megatron_rampup(16, 8, 300, 40).milestones)
        {0: 16, 100: 24, 200: 32, 300: 40}
    """
    start = require_int("start", start, at_least=1)
    increment = require_int("increment", increment, at_least=1)
    samples = require_int("samples", samples, at_least=1)
    steps, rest = divmod(require_int("target", target, at_least=start) - start, increment)
    if rest:
        raise ValueError(
            f"increments of {increment} do not lead from {start} to {target}; nearest targets: "
            f"{start + steps * increment} or {start + (steps + 1) * increment}"
        )
    if not steps:
        return MilestoneSchedule({0: start})
    if samples < steps:
        raise ValueError(
            f"{steps} increments do not fit into samples={samples}; accepted are at least {steps}"
        )
    return MilestoneSchedule(
        {-(-samples * step // steps): start + increment * step for step in range(steps + 1)}
    )
