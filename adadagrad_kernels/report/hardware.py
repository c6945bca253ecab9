"""What a step takes on some hardware: a table of seconds against batch, and a network."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from adadagrad_kernels.errors import DataFormatError

_Rows = list[tuple[float, float]]

#: A larger batch may be measured faster than a smaller one by this share, which is noise.
NOISE = 0.1
#: A test that takes less than this share of a step does not say how much more several workers need.
LITTLE = 0.02


@dataclass(frozen=True)
class Curve:
    """Seconds against samples.

    Between two places a straight line, beyond the last one as between the last two, and below the
    first as there.

    Attributes:
        samples: rising, two or more.
        seconds: for each.
    """

    samples: tuple[float, ...]
    seconds: tuple[float, ...]

    def at(self, samples: float) -> float:
        """Seconds for so many."""
        x, y = self.samples, self.seconds
        if samples <= x[0]:
            return y[0]
        place = min(bisect_left(x, samples), len(x) - 1)
        slope = (y[place] - y[place - 1]) / (x[place] - x[place - 1])
        return y[place - 1] + slope * (samples - x[place - 1])


@dataclass(frozen=True)
class Hardware:
    r"""Seconds of a step of B samples shared out to W workers.

    .. math::
        t(B, W) = t(\lceil B / W \rceil) + r(W), \qquad
        r(W) = 2 \lceil \log_2 W \rceil \alpha + 2 \frac{W - 1}{W} \frac{n}{\beta},

    the last an all-reduce of n bytes by recursive halving and doubling (Thakur, Rabenseifner,
    Gropp 2005), none of it hidden behind the backward pass. Where steps of V workers were measured,
    :math:`t_V` against a worker's share, all that comes with several workers is in these, what is
    hidden and what waits, and other numbers of workers differ by the all-reduce alone:

    .. math::
        t(B, W) = t_V(\lceil B / W \rceil) + r(W) - r(V), \qquad W > 1.

    Steps with a test take longer by the share of one worker's step that the run itself measured.
    Where the table has such steps, :math:`m_V(b)` longer than those without, several workers take
    :math:`m_V(\lceil B / W \rceil) / m_1(B)` times as much longer, for any test.

    Attributes:
        batches: of the table, rising.
        seconds: of a step of each, on one worker.
        latency: :math:`\alpha`, seconds of one message.
        bandwidth: :math:`\beta`, bytes per second between two workers; infinite for none.
        gradient_bytes: n.
        measured_workers: V, or 0.
        together: :math:`t_V`, of the samples of each worker, or None.
        tested: seconds of steps with a test, those between two tests among them; or None.
        tested_together: the same of V workers.
    """

    batches: tuple[float, ...]
    seconds: tuple[float, ...]
    latency: float = 0.0
    bandwidth: float = math.inf
    gradient_bytes: float = 0.0
    measured_workers: int = 0
    together: Curve | None = None
    tested: Curve | None = None
    tested_together: Curve | None = None

    def step(self, batch: float, workers: int = 1, statistics: float | None = None) -> float:
        """Seconds of a step.

        Args:
            batch: B, of all workers.
            workers: W.
            statistics: their share of the step of one worker, None for a step without.
        """
        share = math.ceil(batch / workers) if workers > 1 else batch
        plain = Curve(self.batches, self.seconds)
        alone, measuring = plain.at(share), 0.0
        if statistics is not None:
            of_step = statistics / (1.0 - statistics)
            measuring = alone * of_step
            ratio = self._measuring(batch, share) if workers > 1 else None
            if ratio is not None:
                measuring = plain.at(batch) * of_step * ratio
        if workers == 1:
            return alone + measuring
        if self.together is None:
            return alone + measuring + self._reduction(workers)
        further = self._reduction(workers) - self._reduction(self.measured_workers)
        return max(alone, self.together.at(share) + further) + measuring

    def _measuring(self, batch: float, share: float) -> float | None:
        """What a test takes of several workers, over what it takes of one with the whole batch.

        None where it was not measured, or took too little to say.
        """
        if self.tested is None:
            return None
        plain = Curve(self.batches, self.seconds)
        here = self.tested.at(batch) - plain.at(batch)
        if here < LITTLE * plain.at(batch):
            return None
        if self.together is None or self.tested_together is None:
            return max(0.0, self.tested.at(share) - plain.at(share)) / here
        return max(0.0, self.tested_together.at(share) - self.together.at(share)) / here

    def _reduction(self, workers: int) -> float:
        messages = 2 * math.ceil(math.log2(workers)) * self.latency
        return messages + 2 * (workers - 1) / workers * self.gradient_bytes / self.bandwidth


def read_hardware(path: Path) -> Hardware:
    """Reads the table that `probe` writes, or one of yours.

    Raises:
        DataFormatError: for what is missing, no number, or out of order, with what to do.
    """
    example = '{"steps": [{"batch": 8, "seconds": 0.002}, {"batch": 64, "seconds": 0.01}]}'
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
        rows, tested = _rows(found["steps"], "batch")
        network = {
            name: _number(found, name)
            for name in ("latency", "bandwidth", "gradient_bytes")
            if found.get(name) is not None
        }
        workers = found.get("workers")
        count = 0
        shares: _Rows = []
        tested_shares: _Rows | None = None
        if workers is not None:
            count = _count(workers)
            shares, tested_shares = _rows(workers["steps"], "share")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataFormatError(
            f"{path}: no table of hardware ({type(error).__name__}: {error}); make one with "
            f"adadagrad-kernels probe, or write {example}"
        ) from error
    alone = _curve(path, rows, "steps", "batch")
    together = _curve(path, shares, "workers' steps", "share") if count else None
    if count and (tested is None) != (tested_shares is None):
        raise DataFormatError(
            f"{path}: has tested_seconds in steps or in the workers' steps alone; accepted are "
            "both or neither"
        )
    return Hardware(
        alone.samples,
        alone.seconds,
        **network,
        measured_workers=count,
        together=together,
        tested=_curve(path, tested, "steps with a test", "batch") if tested else None,
        tested_together=(
            _curve(path, tested_shares, "workers' steps with a test", "share")
            if tested_shares
            else None
        ),
    )


def _rows(rows: Any, name: str) -> tuple[_Rows, _Rows | None]:
    """Samples and seconds, and the same with a test, of the rows that have one."""
    plain = [(_number(row, name), _number(row, "seconds")) for row in rows]
    tested = [row for row in rows if "tested_seconds" in row]
    found = [(_number(row, name), _number(row, "tested_seconds")) for row in tested]
    return plain, found or None


def _curve(path: Path, rows: Sequence[tuple[float, float]], what: str, name: str) -> Curve:
    """Rows in order.

    Raises:
        DataFormatError: for too few, or out of order.
    """
    if len(rows) < 2:
        raise DataFormatError(f"{path}: has {len(rows)} rows of {what}; accepted are 2 or more")
    for (smaller, faster), (samples, seconds) in pairwise(rows):
        if samples <= smaller:
            raise DataFormatError(
                f"{path}: {name} {samples:g} comes after {smaller:g}: put the rows in rising "
                f"order, each {name} once"
            )
        if seconds < (1.0 - NOISE) * faster:
            raise DataFormatError(
                f"{path}: of the {what}, one of {samples:g} samples takes {seconds:g} s, less "
                f"than the {faster:g} s of one of {smaller:g}: measure again, on a machine that "
                "does nothing else"
            )
    found, seconds_of = zip(*rows, strict=True)
    return Curve(found, seconds_of)


def _number(row: Any, name: str) -> float:
    value = row[name]
    least = 0.0 if name in ("latency", "gradient_bytes") else math.ulp(0.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value:
        raise ValueError(f"{name} is {value!r}, accepted is a number above 0")
    return float(value)


def _count(workers: Any) -> int:
    count = workers["count"]
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ValueError(f"the count of workers is {count!r}, accepted is a whole number above 1")
    return count
