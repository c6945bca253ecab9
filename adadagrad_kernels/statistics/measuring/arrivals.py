"""Checks that gradients arrive in ``.grad`` as they were measured, and stay so."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.shards import is_sharded, local
from adadagrad_kernels.statistics.measuring.problems import Problems
from adadagrad_kernels.statistics.measuring.sampled_elements import kind_of, sampled_elements
from adadagrad_kernels.statistics.measuring.verify import (
    NamedParameters,
    changed_gradient_message,
    dropped_gradient_message,
    storage_pointer,
)


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
        self._seen: dict[Any, Tensor] = {}
        self._reduced: dict[int, dict[Any, Tensor]] = {}
        self._pass: int | None = None

    def forget(self) -> None:
        """Forget what was not heard of."""
        self._returned = {}

    def expect(self, parameter: nn.Parameter, gradient: Tensor) -> None:
        """Remember the gradient that a layer gave for a parameter."""
        self._returned[id(parameter)] = (gradient, _version(gradient))

    def matches_expected(self, parameter: nn.Parameter, grad: Tensor) -> Tensor | bool | None:
        """Whether a gradient is the one that was expected; None where none was.

        Of a copy the answer stays on its device.
        """
        returned = self._returned.pop(id(parameter), None)
        if returned is None:
            return None
        expected, version = returned
        if _version(expected) != version:
            return False
        if storage_pointer(expected) == storage_pointer(grad):
            return True
        # A hook may give a copy, as what replaces NaN does.
        dense = not expected.is_sparse and not grad.is_sparse
        if not dense or expected.shape != grad.shape:
            return False
        return (expected.detach() == grad.detach()).all()

    def note_at_the_end(self, parameters: Iterable[nn.Parameter], *, reduced: bool) -> None:
        """Have ``.grad`` looked at when the backward pass that runs now is over.

        Args:
            parameters: in training.
            reduced: whether a wrapper writes to their gradients once they are there.
        """
        now = torch._C._current_graph_task_id()
        if now == self._pass:
            return
        self._pass = now

        def note() -> None:
            self._pass = None
            grads = {id(p): p.grad for p in parameters if p.grad is not None}
            self._after = {key: _mark(grad) for key, grad in grads.items()}
            if not reduced:
                self._after |= self._marked
            self._marked = {}
            self._seen = _sampled(grads.values())

        engine: Any = torch.autograd.Variable._execution_engine
        # What a callback queues comes after all that the pass has queued, as a wrapper's is.
        engine.queue_callback(partial(engine.queue_callback, note))

    def mark(self, parameter: Tensor) -> None:
        """Note ``.grad`` as soon as it is there, ahead of hooks that may change it."""
        if parameter.grad is not None:
            self._marked[id(parameter)] = _mark(parameter.grad)

    def is_as_marked(self, parameter: Tensor) -> bool:
        """Whether hooks have left ``.grad`` as it was ahead of them."""
        marked = self._marked.get(id(parameter))
        return marked is None or parameter.grad is None or marked == _mark(parameter.grad)

    def note_reduced(self, parameter: Tensor) -> None:
        """Note a gradient that was reduced after all backward passes, as in a pipeline's stage."""
        if parameter.grad is not None:
            self._reduced[id(parameter)] = _sampled([parameter.grad])

    def may_be_gone(self, parameters: NamedParameters, reached: Container[int]) -> bool:
        """Whether gradients were dropped or written to since the backward pass.

        As far as the host knows: writes through ``.data`` leave no trace there.
        """
        for _, parameter in parameters:
            if id(parameter) not in reached:
                continue
            noted, grad = self._after.get(id(parameter)), parameter.grad
            if grad is None or (noted is not None and noted != _mark(grad)):
                return True
        return False

    def ask_unchanged(
        self,
        parameters: NamedParameters,
        problems: Problems,
        *,
        kept: bool = False,
        divided_by: int = 1,
    ) -> None:
        """Refuse gradients that were changed since the backward pass, ahead of other problems.

        Args:
            parameters: by name.
            problems: of the step; what only the elements show is asked there.
            kept: refuse those that are gone too, which others notice where a gradient arrives
                directly in ``.grad``.
            divided_by: by what a schedule has divided all of them, once.

        Raises:
            ValueError: naming a parameter.
        """
        grads: dict[int, Tensor] = {}
        names: dict[int, str] = {}
        for name, parameter in parameters:
            noted, grad = self._after.get(id(parameter)), parameter.grad
            reduced = self._reduced.get(id(parameter))
            if reduced is not None and grad is not None:
                now = _sampled([grad])
                if not _same(_divided(reduced, divided_by), now):
                    raise ValueError(changed_gradient_message(name))
            if kept and noted is not None and grad is None:
                raise ValueError(dropped_gradient_message(f"'{name}'"))
            if noted is None or grad is None:
                continue
            place, version = noted
            if (place, version + (divided_by != 1)) != _mark(grad):
                raise ValueError(changed_gradient_message(name))
            grads[id(parameter)], names[id(parameter)] = grad, name
        # In the order in which they were seen.
        now = _sampled(grads[key] for key in self._after if key in grads)
        for kind, values in _divided(self._seen, divided_by).items():
            others = now.get(kind)
            if others is None or len(others) != len(values):
                continue  # one is gone, which others notice
            changed = [names[k] for k in self._after if k in grads and kind_of(grads[k]) == kind]
            flags = (values != others).any(1)
            problems.ask_each(flags, partial(_changed, changed), first=True)


def _changed(names: Sequence[str], place: int) -> Exception:
    return ValueError(changed_gradient_message(names[place]))


def _mark(grad: Tensor) -> tuple[int, int]:
    # What changes a DTensor as a whole leaves no version on the part of it.
    whole = grad._version if is_sharded(grad) else 0
    return (id(grad), whole + _version(local(grad)))


def _version(tensor: Tensor) -> int:
    return (tensor._values() if tensor.is_sparse else tensor)._version


def _sampled(grads: Iterable[Tensor]) -> dict[Any, Tensor]:
    """As bytes, so that NaN equals itself: writes through ``.data`` leave no version."""
    return {kind: few.view(torch.uint8) for kind, few in sampled_elements(grads).items()}


def _divided(sampled: Mapping[Any, Tensor], by: int) -> Mapping[Any, Tensor]:
    """The same elements after a division of all gradients, to the last bit."""
    if by == 1:
        return sampled
    return {kind: v.view(kind[1]).div(by).view(torch.uint8) for kind, v in sampled.items()}


def _same(one: Mapping[Any, Tensor], other: Mapping[Any, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in one.items())
