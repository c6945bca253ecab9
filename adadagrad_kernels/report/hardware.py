"""What a step takes on some hardware: a table of seconds against batch, and a network."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from adadagrad_kernels.errors import DataFormatError

#: A larger batch may be measured faster than a smaller one by this share, which is noise.
NOISE = 0.1


@dataclass(frozen=True)
class Hardware:
    r"""Seconds of a step of B samples shared out to W workers.

    .. math::
        t(B, W) = t(\lceil B / W \rceil) + 2 \lceil \log_2 W \rceil \alpha
        + 2 \frac{W - 1}{W} \frac{n}{\beta},

    the last two an all-reduce of n bytes by recursive halving and doubling (Thakur, Rabenseifner,
    Gropp 2005), none of it hidden behind the backward pass. Between two batches of the table t is
    a straight line, beyond the last it goes on as between the last two, and below the first it
    stays.

    Attributes:
        batches: of the table, rising.
        seconds: of a step of each, on one worker.
        latency: :math:`\alpha`, seconds of one message.
        bandwidth: :math:`\beta`, bytes per second between two workers; infinite for none.
        gradient_bytes: n.
    """

    batches: tuple[float, ...]
    seconds: tuple[float, ...]
    latency: float = 0.0
    bandwidth: float = math.inf
    gradient_bytes: float = 0.0

    def step(self, batch: float, workers: int = 1) -> float:
        """Seconds of a step."""
        own = self._own(math.ceil(batch / workers) if workers > 1 else batch)
        if workers == 1:
            return own
        messages = 2 * math.ceil(math.log2(workers)) * self.latency
        return own + messages + 2 * (workers - 1) / workers * self.gradient_bytes / self.bandwidth

    def _own(self, batch: float) -> float:
        x, y = self.batches, self.seconds
        if batch <= x[0]:
            return y[0]
        place = min(bisect_left(x, batch), len(x) - 1)
        slope = (y[place] - y[place - 1]) / (x[place] - x[place - 1])
        return y[place - 1] + slope * (batch - x[place - 1])


def read_hardware(path: Path) -> Hardware:
    """Reads the table that `probe` writes, or one of yours.

    Raises:
        DataFormatError: for what is missing, no number, or out of order, with what to do.
    """
    example = '{"steps": [{"batch": 8, "seconds": 0.002}, {"batch": 64, "seconds": 0.01}]}'
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        steps = found["steps"]
        rows = [(_number(row, "batch"), _number(row, "seconds")) for row in steps]
        network = {
            name: _number(found, name)
            for name in ("latency", "bandwidth", "gradient_bytes")
            if found.get(name) is not None
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataFormatError(
            f"{path}: no table of hardware ({type(error).__name__}: {error}); make one with "
            f"adadagrad-kernels probe, or write {example}"
        ) from error
    if len(rows) < 2:
        raise DataFormatError(f"{path}: has {len(rows)} rows of steps; accepted are 2 or more")
    for (smaller, faster), (batch, seconds) in pairwise(rows):
        if batch <= smaller:
            raise DataFormatError(
                f"{path}: batch {batch:g} comes after {smaller:g}: put the rows in rising order, "
                "each batch once"
            )
        if seconds < (1.0 - NOISE) * faster:
            raise DataFormatError(
                f"{path}: a step of {batch:g} samples takes {seconds:g} s, less than the "
                f"{faster:g} s of one of {smaller:g}: measure again, on a machine that does "
                "nothing else"
            )
    batches, seconds_of = zip(*rows, strict=True)
    return Hardware(batches, seconds_of, **network)


def _number(row: Any, name: str) -> float:
    value = row[name]
    least = 0.0 if name in ("latency", "gradient_bytes") else math.ulp(0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value:
        raise ValueError(f"{name} is {value!r}, accepted is a number above 0")
    return float(value)
