"""The call of the model that runs: its samples, and what the rows of its layers' inputs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

from adadagrad_kernels.statistics.measuring.answers import Answer
from adadagrad_kernels.statistics.measuring.independence import Reply, ask_once, tell_doubt
from adadagrad_kernels.statistics.measuring.rows import Rows
from adadagrad_kernels.statistics.measuring.trial import Watch
from adadagrad_kernels.statistics.measuring.verify import in_backward


class ModelCall:
    """What is known of the forward pass that runs.

    Attributes:
        watch: of the layers, while the model is asked.
        answer: what the model has said of such a call.
        samples: rows of the batch, or None outside of a call.
    """

    def __init__(self) -> None:
        self.watch = Watch()
        self.answer = Answer()
        self.samples: int | None = None
        self._turns: Counter[str] = Counter()
        self._doubts: list[tuple[nn.Module, Answer]] = []

    def begin(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        args: Any,
        kwargs: Any,
        *,
        is_part: bool,
    ) -> Reply:
        """Ask the model of a call, if that is new.

        Raises:
            UnsupportedModelError: naming the first module that mixes samples.
        """
        reply = ask_once(model, forward, self.watch, args, kwargs, is_part=is_part)
        self.answer, self.samples = reply.answer, reply.samples
        self._turns.clear()
        if self.answer.doubt:
            self._doubts.append((model, self.answer))
        return reply

    def doubt(self, model: nn.Module, doubt: str) -> None:
        """Keep a doubt that came later, until it is told."""
        self._doubts.append((model, Answer(doubt=doubt)))

    def tell_doubts(self) -> None:
        """Warn of what could not be asked of the step's calls, once for a model."""
        while self._doubts:
            tell_doubt(*self._doubts.pop())

    def forget(self) -> None:
        """The call is over."""
        self.samples = None

    def turn(self, layer: str) -> int | None:
        """Count a call of a layer: the how many-th of this forward pass.

        None for a checkpoint's second run, which takes the layers in another order.
        """
        if in_backward():
            return None
        self._turns[layer] += 1
        return self._turns[layer] - 1

    def rows(self, layer: str, turn: int | None) -> Rows:
        """What the rows of a layer's input are."""
        return self.answer.rows_of(layer, turn)

    def uses(self, layer: str) -> bool:
        """Whether a layer uses parameters of its own that it may hold for others."""
        return self.answer.users is None or layer in self.answer.users

    def writes(self, layer: str) -> bool:
        """Whether a layer changes its inputs in place."""
        return layer in self.answer.writers
