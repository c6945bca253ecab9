"""Which steps are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from adadagrad_kernels.statistics.measuring.verify import in_backward


class Gate:
    """The question whether to measure, asked once for each step.

    Attributes:
        wanted: says whether a step is to be measured; asked at its first forward pass.
    """

    def __init__(self) -> None:
        self.wanted: Callable[[], bool] = lambda: True
        self._measured: bool | None = None
        self._passed = False  # a backward pass of a step that is not measured
        self._paused = False
        self._failed = False

    @property
    def measures(self) -> bool:
        """Whether layers called now are measured: the same answer for all of a step.

        A step that is not measured may end without ``next_step``. So the question is asked again
        after its backward pass; the answer can only have changed with another step.
        """
        if self._paused or self._failed:
            return False
        if self._measured is None or (self._passed and not self._measured):
            wanted = self.wanted()
            # A forward pass without gradients, say an evaluation, belongs to no step.
            if torch.is_grad_enabled() and not in_backward():
                self._measured, self._passed = wanted, False
            return wanted
        return self._measured

    @property
    def measured(self) -> bool:
        """Whether the step was measured; where it has not begun, whether it would be."""
        return self.wanted() if self._measured is None else self._measured

    def note_backward(self) -> None:
        """A gradient has arrived."""
        self._passed |= self._measured is False

    def next_step(self) -> None:
        """Forget whether the step was measured."""
        self._measured, self._passed = None, False

    @property
    def failed(self) -> bool:
        """Whether an error was kept in the forward pass of the step."""
        return self._failed

    def forget_failure(self) -> None:
        """Measure again: the step is repeated."""
        self._failed = False

    def fail(self) -> None:
        """Measure no more of this step."""
        self._failed = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A context in which the layers run as they are."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before
