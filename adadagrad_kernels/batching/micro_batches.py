"""Cuts a batch into micro-batches that fit the memory, and smaller ones when memory runs out."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch

from adadagrad_kernels.batching.memory import (
    MemoryModel,
    is_out_of_memory,
    peak_bytes,
    release_memory,
)
from adadagrad_kernels.batching.repeatable_step import RepeatableStep
from adadagrad_kernels.settings import require_int, require_keys

if TYPE_CHECKING:
    from torch import nn

_logger = logging.getLogger("adadagrad_kernels")

Result = TypeVar("Result")


class ChunkedSource(Protocol):
    """A source of statistics that cuts its batches itself, as PerSampleGradients does."""

    chunk_size: int | None


class MicroBatchPlanner:
    """Cuts batches into micro-batches that fit the memory, and repeats steps that ran out of it.

    The micro-batch size stays the same while the batch grows (torch.compile and CUDA graphs see
    at most two shapes, because the last one is short), and only ever shrinks:

    * ``max_samples`` bounds it from the start;
    * ``max_bytes`` bounds what a step may allocate: activations, gradients, per-sample gradients.
      The planner measures steps of growing size (``probe``), fits fixed + per_sample * m, and
      takes the largest m below the bound;
    * if a step runs out of memory, its gradients, buffers and random states are put back, the
      micro-batch is halved, and the same step runs again: nothing is lost or counted twice.

    A step may therefore run several times. It must change nothing but gradients and buffers of the
    model, and keep its sums to itself until it returns them. Take the optimizer's step, the
    controller's update and other counts after it.

    Args:
        max_samples: the largest micro-batch, or None.
        max_bytes: the most a step may hold, or None.
        min_samples: the smallest micro-batch (2 with BatchNorm); the last one of a batch is
            filled up to it from the one before, where that leaves enough there.

    Attributes:
        micro_batch_size: the largest micro-batch now, or None while nothing bounds it.
        memory: the fit of the latest ``probe``, or None.
        out_of_memory_events: how often memory ran out.

    Raises:
        ValueError: for bounds that contradict each other, or are not positive.

    Example:
        >>> MicroBatchPlanner(max_samples=4).plan(10)
        [4, 4, 2]
        >>> model = torch.nn.Linear(3, 1)
        >>> inputs, targets = torch.ones(10, 3), torch.zeros(10, 1)
        >>> def step(parts):
        ...     total = 0.0
        ...     for part in parts:
        ...         loss = (model(inputs[part]) - targets[part]).square().sum() / len(inputs)
        ...         loss.backward()
        ...         total += loss.item()
        ...     return total
        >>> loss = MicroBatchPlanner(max_samples=4).run(step, len(inputs), model)
    """

    def __init__(
        self,
        *,
        max_samples: int | None = None,
        max_bytes: int | None = None,
        min_samples: int = 1,
    ) -> None:
        self.min_samples: int = require_int("min_samples", min_samples, at_least=1)
        if max_samples is not None:
            max_samples = require_int("max_samples", max_samples, at_least=self.min_samples)
        if max_bytes is not None:
            max_bytes = require_int("max_bytes", max_bytes, at_least=1)
        self.max_bytes = max_bytes
        self.micro_batch_size = max_samples
        self.memory: MemoryModel | None = None
        self.out_of_memory_events: int = 0

    def plan(self, batch_size: int) -> list[int]:
        """Returns the micro-batch sizes of a batch, in order; they add up to ``batch_size``.

        All have ``micro_batch_size``, except for a short last one.
        """
        size = self._largest(batch_size)
        full, tail = divmod(batch_size, size)
        plan = [size] * full + [tail] * (tail > 0)
        missing = max(0, self.min_samples - plan[-1])
        if missing and full and size - missing >= self.min_samples:
            plan[-2:] = [size - missing, tail + missing]
        return plan

    def run(
        self,
        step: Callable[[list[slice]], Result],
        batch_size: int,
        model: nn.Module,
        *,
        source: ChunkedSource | None = None,
    ) -> Result:
        """Runs a step over the micro-batches of a batch, smaller ones if memory runs out.

        With ``max_bytes`` it probes first, and again when the batch has outgrown the last probe.

        Args:
            step: receives the slices of the batch, one per micro-batch, and runs forward and
                backward for each; its result is returned.
            batch_size: samples in the batch.
            model: whose gradients and buffers the step changes.
            source: cuts the batch by itself: its ``chunk_size`` is set before every try, and the
                step gets one slice, of the samples for ``source.backward``.

        Raises:
            MemoryError: if not even ``min_samples`` fit; gradients, buffers and random states are
                as they were before the call.
        """
        if self.max_bytes is not None and self._beyond_probed(self._largest(batch_size)):
            self.probe(step, batch_size, model, source=source)
        before = RepeatableStep(model)
        while True:
            plan = self.plan(batch_size)
            ends = list(itertools.accumulate(plan))
            slices = [slice(end - size, end) for end, size in zip(ends, plan, strict=True)]
            try:
                return _execute(step, slices, source)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {error}"
            # Outside of the handler: its traceback would keep the failed step's tensors alive.
            before.restore()
            release_memory()
            self._halve(plan[0], reason)

    def probe(
        self,
        step: Callable[[list[slice]], object],
        batch_size: int,
        model: nn.Module,
        *,
        source: ChunkedSource | None = None,
    ) -> MemoryModel:
        """Measures what a step holds and sets the micro-batch from ``max_bytes``.

        The step runs over two micro-batches (the second meets the gradients of the first), each of
        ``min_samples``, then of four times as many again and again, up to the bound or the batch.
        Gradients, buffers and random states are put back each time.

        Args:
            step: as for ``run``.
            batch_size: samples that the step can be given, more than ``min_samples``.
            model: as for ``run``; its parameters say the device.
            source: as for ``run``.

        Returns:
            The fit, which ``memory`` keeps too. Without ``max_bytes`` nothing else is set.

        Raises:
            MemoryError: if ``min_samples`` need more than ``max_bytes``.
            ValueError: if the batch is too small for two different sizes of micro-batches.
        """
        largest = self._largest(batch_size)
        if largest <= self.min_samples:
            raise ValueError(
                f"a probe needs micro-batches above min_samples={self.min_samples}, got batch_size="
                f"{batch_size} and micro_batch_size={self.micro_batch_size}: probe a larger batch, "
                "or lower min_samples"
            )
        size = self.min_samples
        if self.memory is not None and self.memory.measured_samples < largest:
            size = self.memory.measured_samples
        small = size, self._measure(step, size, batch_size, model, source)
        if self.max_bytes is not None and size == self.min_samples and small[1] > self.max_bytes:
            raise MemoryError(
                f"micro-batches of {size} need more than max_bytes={self.max_bytes:,} "
                f"({small[1]:,} measured): raise max_bytes, or use a smaller model or samples"
            )
        size = min(4 * size, largest)
        while True:
            large = size, self._measure(step, size, batch_size, model, source)
            self.memory = memory = MemoryModel.through(small, large)
            fits = None if self.max_bytes is None else memory.samples_within(self.max_bytes)
            reachable = min(4 * size, largest, largest if fits is None else fits)
            if not self._beyond_probed(reachable):
                break
            small, size = large, reachable
        if fits is not None:
            fits = max(self.min_samples, fits)
            self.micro_batch_size = min(self.micro_batch_size or fits, fits)
        return memory

    def metrics(self) -> dict[str, float]:
        """Flat numbers for a log: ``batch/micro`` where bounded, ``out_of_memory_events``."""
        metrics = {"out_of_memory_events": float(self.out_of_memory_events)}
        if self.micro_batch_size is not None:
            metrics["batch/micro"] = float(self.micro_batch_size)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Returns what was found out so far, as plain JSON types."""
        return {
            "micro_batch_size": self.micro_batch_size,
            "memory": None if self.memory is None else list(self.memory),
            "out_of_memory_events": self.out_of_memory_events,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state_dict``, so that a resumed run cuts the same micro-batches.

        Where both the state and ``max_samples`` bound the micro-batch, the smaller one holds.

        Raises:
            ValueError: if keys are missing or out of range; nothing has changed then.
        """
        require_keys("MicroBatchPlanner", state, self.state_dict())
        size, memory = state["micro_batch_size"], state["memory"]
        if size is not None:
            size = require_int("saved micro_batch_size", size, at_least=self.min_samples)
            size = min(size, self.micro_batch_size or size)
        events = require_int("saved events", state["out_of_memory_events"], at_least=0)
        if memory is not None:
            if len(memory) != 3:
                raise ValueError(
                    f"saved memory must be the 3 numbers of a fit, got {memory!r}; load what "
                    "state_dict() returned"
                )
            memory = MemoryModel(*memory)
        self.micro_batch_size = size or self.micro_batch_size
        self.memory, self.out_of_memory_events = memory, events

    def _largest(self, batch_size: int) -> int:
        require_int("batch_size", batch_size, at_least=1)
        return min(batch_size, self.micro_batch_size or batch_size)

    def _beyond_probed(self, size: int) -> bool:
        if self.memory is None:
            return size > self.min_samples
        # A quarter more is near enough to extrapolate.
        return 4 * size > 5 * self.memory.measured_samples

    def _measure(
        self,
        step: Callable[[list[slice]], object],
        size: int,
        batch_size: int,
        model: nn.Module,
        source: ChunkedSource | None,
    ) -> int:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        # They may overlap: nothing of what they do is kept.
        start = min(size, batch_size - size)
        slices = [slice(0, size), slice(start, start + size)]
        before = RepeatableStep(model)
        try:
            return peak_bytes(partial(_execute, step, slices, source), device)
        except (RuntimeError, MemoryError) as error:
            if self.max_bytes is None or not is_out_of_memory(error):
                raise
        finally:
            before.restore()
        # The bound is above what the machine has; for the fit, count it as far exceeded.
        self.out_of_memory_events += 1
        release_memory()
        return 2 * self.max_bytes

    def _halve(self, size: int, reason: str) -> None:
        if size <= self.min_samples:
            raise MemoryError(
                f"a micro-batch of {size} does not fit into memory, and min_samples is "
                f"{self.min_samples}: use a smaller model or samples, free other memory, or lower "
                f"min_samples. The allocator said: {reason}"
            )
        self.micro_batch_size = max(self.min_samples, size // 2)
        self.out_of_memory_events += 1
        text = "out of memory with micro-batches of %d: repeating the step with %d (%s)"
        _logger.warning(text, size, self.micro_batch_size, reason)


def _execute(
    step: Callable[[list[slice]], Result], slices: list[slice], source: ChunkedSource | None
) -> Result:
    if source is not None:
        source.chunk_size = slices[0].stop
        slices = [slice(0, slices[-1].stop)]
    return step(slices)
