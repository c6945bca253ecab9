"""What statistics cost: the time of a gradient with them minus that of the same gradient without.

The second is estimated, by timing a plain backward pass of the same micro-batch now and then.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

REPEAT_EVERY = 50
KEPT = 5


class PlainBackwardTimer:
    """Estimates how long a plain backward pass over a batch takes.

    A batch size is timed when it is new and again every `REPEAT_EVERY` steps; the estimate is the
    median of its last `KEPT` timings. Of a batch that needs several micro-batches one is timed,
    and the estimate is in proportion to the samples. Timing uses `torch.autograd.grad`, so no
    `.grad`, parameter or random state changes.
    """

    def __init__(self, model: nn.Module, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._model = model
        self._loss_fn = loss_fn
        self._timings: dict[int, deque[float]] = {}
        self._calls = 0

    def seconds(self, inputs: Tensor, targets: Tensor, micro_batch: int) -> float:
        """Returns the estimate for this batch, which it may time."""
        size = min(len(targets), micro_batch)
        if size not in self._timings or self._calls % REPEAT_EVERY == 0:
            timings = self._timings.setdefault(size, deque(maxlen=KEPT))
            timings.append(self._time(inputs[:size], targets[:size]))
        self._calls += 1
        return statistics.median(self._timings[size]) * len(targets) / size

    def _time(self, inputs: Tensor, targets: Tensor) -> float:
        with torch.random.fork_rng(devices=[]):
            parameters: Iterable[Tensor] = self._model.parameters()
            started = time.perf_counter()
            loss = self._loss_fn(self._model(inputs), targets)
            torch.autograd.grad(loss, list(parameters))
            return time.perf_counter() - started
