"""How long runs would take to one loss on other hardware, with other numbers of workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from adadagrad_kernels.errors import DataFormatError
from adadagrad_kernels.report.curves import is_untested, number
from adadagrad_kernels.report.hardware import Hardware
from adadagrad_kernels.report.runs import Run

#: The losses that a target may be of, the first that all runs have.
LOSSES = ("train_loss", "test_loss")


@dataclass(frozen=True)
class Forecast:
    """What a way to train takes to the target with some workers.

    Attributes:
        name: of the way to train.
        adaptive: whether its batch follows a test.
        workers: how many.
        seconds: to the target, the mean over its seeds.
        steps: the same.
        samples: the same.
        measured: seconds that its own runs took to the target; None but for one worker.
    """

    name: str
    adaptive: bool
    workers: int
    seconds: float
    steps: float
    samples: float
    measured: float | None

    @property
    def device_hours(self) -> float:
        """Of all workers together."""
        return self.workers * self.seconds / 3600.0


def loss_of(groups: Mapping[str, Sequence[Run]]) -> str:
    """The loss that all runs were evaluated on.

    Raises:
        DataFormatError: where there is none.
    """
    for name in LOSSES:
        if all(any(number(line, name) is not None for line in r.lines) for r in _all(groups)):
            return name
    raise DataFormatError(
        f"the runs have none of {', '.join(LOSSES)} in common; give metrics of train or demo, "
        "which evaluate along the way"
    )


def common_loss(groups: Mapping[str, Sequence[Run]], name: str) -> float:
    """The lowest loss that every run reaches."""
    return max(
        min(value for line in run.lines if (value := number(line, name)) is not None)
        for run in _all(groups)
    )


def forecasts(
    groups: Mapping[str, Sequence[Run]],
    hardware: Hardware,
    workers: Sequence[int],
    name: str,
    target: float,
) -> list[Forecast]:
    """Every way to train with every number of workers.

    A run takes the same steps as it took, each as long as the hardware says for its batch. Up to
    its last test they take longer by what the hardware makes of the share that the run measured.

    Raises:
        DataFormatError: for a run that does not reach the target, or lacks its steps.
    """
    return [
        _forecast(way, runs, hardware, count, name, target)
        for way, runs in groups.items()
        for count in workers
    ]


def _forecast(
    way: str, runs: Sequence[Run], hardware: Hardware, workers: int, name: str, target: float
) -> Forecast:
    seconds, steps, samples, known = [], [], [], []
    for run in runs:
        # Between two lines, up to the target.
        stretches = _stretches(run, name, target)
        seconds.append(sum(n * hardware.step(b, workers, share) for n, b, share in stretches))
        steps.append(sum(n for n, _, _ in stretches))
        samples.append(sum(n * batch for n, batch, _ in stretches))
        own = number(run.lines[_end(run, name, target)], "seconds")
        known += [] if own is None else [own]
    return Forecast(
        name=way,
        adaptive=not all(map(is_untested, runs)),
        workers=workers,
        seconds=fmean(seconds),
        steps=fmean(steps),
        samples=fmean(samples),
        measured=fmean(known) if known and workers == 1 else None,
    )


def _all(groups: Mapping[str, Sequence[Run]]) -> list[Run]:
    return [run for runs in groups.values() for run in runs]


def _end(run: Run, name: str, target: float) -> int:
    """The place of the line at which a run first has the target.

    Raises:
        DataFormatError: where it never has.
    """
    losses = [(k, v) for k, line in enumerate(run.lines) if (v := number(line, name)) is not None]
    for place, value in losses:
        if value <= target:
            return place
    best = min((value for _, value in losses), default=math.nan)
    raise DataFormatError(
        f"{run.source}: its {name} does not reach the target {target:g}, the lowest is {best:g}: "
        "give a higher --target, or a longer run"
    )


def _stretches(run: Run, name: str, target: float) -> list[tuple[float, float, float | None]]:
    """Steps, batch, and the share of statistics, None once no further test was made."""
    lines = run.lines[: _end(run, name, target) + 1]
    untested, in_all = is_untested(run), number(lines[-1], "statistics_seconds")
    steps = samples = seconds = measuring = 0.0
    found = []
    for line in lines:
        at, seen = number(line, "steps"), number(line, "samples_seen")
        if at is None or seen is None:
            raise DataFormatError(
                f"{run.source}: a line lacks steps: give metrics of train or demo"
            )
        now, so_far = number(line, "seconds"), number(line, "statistics_seconds")
        if at > steps:
            share = None
            # Where nothing is added any more, the largest batch is reached, which is not tested.
            if not untested and (measuring != in_all or in_all == 0.0):
                share = _share(run)
                if now is not None and so_far is not None and now > seconds:
                    share = _between((so_far - measuring) / (now - seconds))
            found.append((at - steps, (seen - samples) / (at - steps), share))
            seconds, measuring = now or seconds, so_far or measuring
        steps, samples = at, seen
    return found


def _share(run: Run) -> float:
    """Of statistics, in the whole run."""
    shares = [number(line, "statistics_share") for line in run.lines]
    known = [share for share in shares if share is not None]
    return _between(known[-1]) if known else 0.0


def _between(share: float) -> float:
    """Differences of timings: their noise may put a share near 0 a little below it."""
    return min(0.95, max(0.0, share))
