"""Gradients on their way into ``.grad``: that they get there as they were measured, and stay so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics.measuring.verify import (
    NamedParameters,
    changed,
    storage,
)

#: Gradients of which some elements are kept, and how many: what is written through ``.data`` has no
#: version, and mostly scales all of them.
_SEEN, _FEW = 2, 16


class Arrivals:
    """What is known of the gradients of a step."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the step."""
        # Held until it is heard of, so that autograd adds no other gradient in its place.
        self._returned: dict[int, tuple[Tensor, int]] = {}
        self._after: dict[int, tuple[int, int]] = {}
        self._marked: dict[int, tuple[int, int]] = {}
        self._seen: dict[int, Tensor] = {}
        self._pass: int | None = None

    def forget(self) -> None:
        """Forget what was not heard of."""
        self._returned = {}

    def expect(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Remember the gradient that a layer gave for a parameter."""
        self._returned[id(parameter)] = (gradient, _version(gradient))

    def take(self, parameter: nn.Parameter, grad: Tensor) -> bool | None:
        """Whether a gradient is the one that was expected; None where none was."""
        returned = self._returned.pop(id(parameter), None)
        if returned is None:
            return None
        expected, version = returned
        return storage(expected) == storage(grad) and _version(expected) == version

    def note_at_the_end(self, parameters: Iterable[nn.Parameter]) -> None:
        """Have ``.grad`` looked at when the backward pass that runs now is over."""
        now = torch._C._current_graph_task_id()
        if now == self._pass:
            return
        self._pass = now

        def note() -> None:
            self._pass = None
            grads = {id(p): p.grad for p in parameters if p.grad is not None}
            self._after = {key: _mark(grad) for key, grad in grads.items()} | self._marked
            self._marked = {}
            some = list(grads.values())[:: -(-len(grads) // _SEEN) or 1]
            self._seen = {id(grad): _few(grad) for grad in some}

        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(note)

    def mark(self, parameter: Tensor) -> None:
        """Note ``.grad`` as soon as it is there, ahead of hooks that may change it."""
        if parameter.grad is not None:
            self._marked[id(parameter)] = _mark(parameter.grad)

    def require_unchanged(self, parameters: NamedParameters) -> None:
        """Refuse gradients that were changed since the backward pass.

        Raises:
            ValueError: naming a parameter.
        """
        for name, parameter in parameters:
            noted, grad = self._after.get(id(parameter)), parameter.grad
            if noted is None or grad is None:
                continue
            seen = self._seen.get(id(grad))
            if noted != _mark(grad) or (seen is not None and not torch.equal(seen, _few(grad))):
                raise ValueError(changed(name))


def _mark(grad: Tensor) -> tuple[int, int]:
    return (id(grad), _version(grad))


def _version(tensor: Tensor) -> int:
    return (tensor._values() if tensor.is_sparse else tensor)._version


def _few(grad: Tensor) -> Tensor:
    """The bits of some elements, so that NaN equals itself."""
    values = (grad._values() if grad.is_sparse else grad).detach()
    count = min(_FEW, values.numel())
    return values.as_strided((count,), (1,)).clone().view(torch.uint8)
