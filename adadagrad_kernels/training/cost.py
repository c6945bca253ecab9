"""What statistics cost: the time of a gradient with them minus that of the same gradient without.

The second is estimated, by timing a plain backward pass of the same samples now and then.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# A timing is repeated after so many times its samples, so that timings take 5 % of a run; the
# median of a few of them ignores a moment in which the machine did something else.
REPEAT_AFTER = 20
KEPT = 5


@dataclass
class _Timings:
    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    samples_until_next: int = 0


class PlainBackwardTimer:
    """Estimates how long a plain backward pass over a batch takes.

    Each size of micro-batch is timed when it is new and again every `REPEAT_AFTER` times as many
    samples; the estimate is the median of its last `KEPT` timings. Of a batch that needs several
    micro-batches one is timed, and the estimate is in proportion to the samples. Timing uses
    `torch.autograd.grad`, so no `.grad`, parameter or random state changes.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._timings: dict[int, _Timings] = {}

    def seconds(self, inputs: Tensor, targets: Tensor, micro_batch: int) -> float:
        """Returns the estimate for this batch, which it may time."""
        size = min(len(targets), micro_batch)
        timings = self._timings.setdefault(size, _Timings())
        if timings.samples_until_next <= 0:
            timings.seconds.append(self._time(inputs[:size], targets[:size]))
            timings.samples_until_next = REPEAT_AFTER * size
        timings.samples_until_next -= len(targets)
        return statistics.median(timings.seconds) * len(targets) / size

    def _time(self, inputs: Tensor, targets: Tensor) -> float:
        with torch.random.fork_rng(devices=[]):
            started = time.perf_counter()
            loss = self._loss_fn(self._model(inputs), targets)
            torch.autograd.grad(loss, list(self._model.parameters()))
            return time.perf_counter() - started
