"""The running call of the model: its samples, and what the rows of its layers' inputs are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from adadagrad_kernels.statistics.measuring.answers import Answer
from adadagrad_kernels.statistics.measuring.independence import Reply, ask_once, warn_of_doubt
from adadagrad_kernels.statistics.measuring.rows import Rows
from adadagrad_kernels.statistics.measuring.together import Together
from adadagrad_kernels.statistics.measuring.trial import Watch
from adadagrad_kernels.statistics.measuring.verify import in_backward, trains


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
        # A part that was called alone, with tensors from no layer.
        self._entered: tuple[nn.Module, list[Tensor]] | None = None
        self._doubts: list[tuple[nn.Module, Answer]] = []

    def begin(
        self,
        model: nn.Module,
        forward: Callable[..., Any],
        args: Any,
        kwargs: Any,
        *,
        whole: nn.Module,
        together: Together | None = None,
    ) -> Reply:
        """Ask the model of a call, if that is new.

        Args:
            model: that is called: the one in training, or a part of it alone.
            forward: its forward, with layers that are not measured.
            args: of the call.
            kwargs: of the call.
            whole: the model in training.
            together: the ranks that can only run it at the same time.

        Raises:
            UnsupportedModelError: naming the first module that mixes samples.
        """
        reply = ask_once(
            model, forward, self.watch, args, kwargs, is_part=model is not whole, together=together
        )
        self.answer, self.samples = reply.answer, reply.samples
        self._turns.clear()
        if self.answer.doubt:
            self._doubts.append((model, self.answer))
        elif model is not whole and trains(model):
            self._enter(model, reply.question.contents.tensors, whole)
        return reply

    def _enter(self, part: nn.Module, tensors: list[Tensor], whole: nn.Module) -> None:
        """Note a part that is called alone; where several have inputs, some may be positions."""
        if any(tensor.grad_fn is not None for tensor in tensors):
            return
        if self._entered is None:
            self._entered = (part, tensors)
        other, before = self._entered
        if other is not part and not _same(tensors, before):
            self.doubt(
                whole,
                "several of its parts are called alone with inputs of their own, of which one may "
                "hold positions",
            )

    def doubt(self, model: nn.Module, doubt: str) -> None:
        """Keep a doubt that came later, until it is told."""
        self._doubts.append((model, Answer(doubt=doubt)))

    def warn_of_doubts(self) -> None:
        """Warn of what could not be asked of the step's calls, once for a model."""
        while self._doubts:
            warn_of_doubt(*self._doubts.pop())

    def forget(self) -> None:
        """The call is over."""
        self.samples, self._entered = None, None

    def next_call_index(self, layer: str) -> int | None:
        """Count a call of a layer, and return its index in this forward pass.

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
        """Whether a layer itself uses the parameters that it may only hold for others."""
        return self.answer.users is None or layer in self.answer.users

    def writes(self, layer: str) -> bool:
        """Whether a layer changes its inputs in place."""
        return layer in self.answer.writers


def _same(tensors: list[Tensor], others: list[Tensor]) -> bool:
    """Whether these are the same values in memory."""
    pairs = zip(tensors, others, strict=False)
    return len(tensors) == len(others) and all(one.is_set_to(other) for one, other in pairs)
