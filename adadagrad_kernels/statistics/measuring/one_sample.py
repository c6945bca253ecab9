"""A sample of a batch, run by itself or as the only one whose outputs get their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics.contents import distinct_tensors
from adadagrad_kernels.statistics.measuring.answers import Answer
from adadagrad_kernels.statistics.measuring.as_before import has_backward_hooks, has_hooks_of_users
from adadagrad_kernels.statistics.measuring.mixing import close
from adadagrad_kernels.statistics.measuring.trial import Question
from adadagrad_kernels.statistics.randomness import RandomState

#: Elements of the gradient of an output up to which all of it is kept.
_KEPT = 1 << 24
#: How far outputs may differ, relative to their largest element; in 32 bits and in 16.
_FAR, _COARSE = 1e-2, 1e-1

#: By the identity of a parameter.
Gradients = dict[int, Tensor]


class CannotCompareError(Exception):
    """The gradient of the sample by itself cannot be computed."""


@dataclass(frozen=True)
class _Place:
    """Where the rows of a sample are in an output: ``start`` and every ``step`` after it."""

    dimension: int
    start: int
    size: int
    step: int = 1

    def of(self, tensor: Tensor) -> Tensor:
        stop = self.start + self.size * self.step
        return tensor[(slice(None),) * self.dimension + (slice(self.start, stop, self.step),)]

    def of_first(self, count: int) -> _Place:
        """The same of the first of ``count`` samples."""
        return _Place(self.dimension, 0, self.size, count if self.step > 1 else 1)


@dataclass(frozen=True)
class Repeated:
    """A call that was run again.

    Attributes:
        every: what follows from the gradients of all outputs.
        row: the same from those of one sample's outputs.
        alone: that of the sample run by itself; ``row`` if the model draws random numbers.
        changes: whether the sample's outputs differ when it runs by itself.
    """

    every: Gradients
    row: Gradients
    alone: Gradients
    changes: bool


class OneSample:
    """A sample of one call of a model: made before the forward pass that it belongs to.

    A model that draws random numbers draws others for a sample by itself; it is compared only
    after the backward pass.

    Args:
        question: the call.
        answer: what the model has said of it.
        samples: of the batch.
        row: which of them.
        thorough: whether the whole batch is run again for a model that draws random numbers.

    Attributes:
        coarse: whether it was computed in types of sixteen bits.
        has_rowless_gradient: whether an output without rows, such as a loss, got a gradient too.
    """

    def __init__(
        self, question: Question, answer: Answer, samples: int, row: int, *, thorough: bool = True
    ) -> None:
        self.samples, self.row, self.thorough = samples, row, thorough
        self._question, self._has_samples = question, answer.has_samples
        self._count = 2 if answer.resized else samples
        parameters = list(question.model.parameters())
        self._parameters = [p for p in parameters if p.requires_grad]
        device = parameters[0].device
        self._random = RandomState(device)
        self._autocast = (
            device.type,
            torch.get_autocast_dtype(device.type),
            torch.is_autocast_enabled(device.type),
        )
        halves = (torch.float16, torch.bfloat16)
        self.coarse: bool = self._autocast[2] or any(p.dtype in halves for p in parameters)
        self._versions = _versions(question)
        self.has_rowless_gradient: bool = False
        self._hooks = False
        self._given: list[Tensor | None] = []
        self._places: list[_Place | None] = []
        self._grads: dict[int, Tensor] = {}
        self._whole: dict[int, Tensor] = {}
        self._alone = self._run_alone(question)

    def _run_alone(self, question: Question) -> list[Tensor] | None:
        """What it gives by itself; None where it does not run so, or draws random numbers."""
        try:
            given = question.outputs([self.row] * self._count, self._has_samples)
        except Exception:  # it is run with the whole batch then
            return None
        self._hooks |= given.hooks
        random = given.draws or _rows_differ(given.tensors, self._count)
        return None if random else given.tensors

    def note(self, result: Any) -> None:
        """Note what the call gave, and have the gradients of that noted."""
        outputs = distinct_tensors(result)
        alone: Sequence[Tensor | None] = self._alone or ()
        if len(alone) != len(outputs):
            self._alone, alone = None, [None] * len(outputs)
        pairs = zip(outputs, alone, strict=True)
        self._places = [self._place(output, other) for output, other in pairs]
        if self._alone is not None and self._has_unplaced_outputs(outputs):
            self._alone = None
            self._places = [self._place(output, None) for output in outputs]
        for index, (output, place) in enumerate(zip(outputs, self._places, strict=True)):
            self._given.append(_part(place, output) if place or output.dim() == 0 else None)
            if output.grad_fn is not None:
                output.register_hook(self._listener(index))  # type: ignore[no-untyped-call]

    def _has_unplaced_outputs(self, outputs: Sequence[Tensor]) -> bool:
        """Whether an output has no place for the sample, as where a batch is cropped."""
        return any(
            place is None and output.dim() > 0 and output.requires_grad
            for output, place in zip(outputs, self._places, strict=True)
        )

    def _place(self, output: Tensor, alone: Tensor | None) -> _Place | None:
        """Where the sample is; None where that cannot be told."""
        shape = output.shape
        given = None if alone is None else alone.shape
        found = [
            dimension
            for dimension, size in enumerate(shape)
            if size == self.samples
            and given in (None, (*shape[:dimension], self._count, *shape[dimension + 1 :]))
        ]
        if found:
            # Without the sample alone, a dimension after the first may be as long by chance.
            known = len(found) == 1 and (given is not None or found == [0])
            return _Place(found[0], self.row, 1) if known else None
        if alone is None or not shape or not given or shape[1:] != given[1:]:
            return None
        each = shape[0] // self.samples
        if shape[0] != each * self.samples or given[0] != each * self._count:
            return None
        # Those of one sample after those of another, or a position of all after another one.
        for place in (_Place(0, self.row * each, each), _Place(0, self.row, each, self.samples)):
            if close(place.of_first(self._count).of(alone.detach()), place.of(output.detach())):
                return place
        return None

    def _listener(self, index: int) -> Callable[[Tensor], None]:
        def hear(grad: Tensor) -> None:
            if index >= len(self._places):
                return  # it was released
            place = self._places[index]
            self._grads[index] = _part(place, grad) if place else grad.new_empty(0)
            if grad.numel() <= _KEPT:
                self._whole[index] = grad.detach()

        return hear

    def release(self) -> None:
        """Give back the memory: hooks hold on to this as long as somebody holds the outputs."""
        self._alone, self._given, self._places = None, [], []
        self._grads, self._whole = {}, {}
        del self._question, self._random

    # After the backward pass.

    def gradients(self) -> Iterator[Gradients]:
        """What its outputs' gradients make of it, by itself if that is known.

        Yields:
            First with each output's recorded gradient as its total, for outputs that others are
            computed from; then with the gradients of all outputs added up.

        Raises:
            CannotCompareError: where these are not the sample's.
        """
        with_rows = [i for i in self._grads if self._places[i] is not None]
        self.has_rowless_gradient = len(with_rows) < len(self._grads)
        self._grads = {i: self._grads[i] for i in with_rows}
        self._whole = {i: grad for i, grad in self._whole.items() if i in with_rows}
        if not with_rows or self._versions != _versions(self._question):
            raise CannotCompareError
        if self._alone is None and not self.thorough:
            raise CannotCompareError
        outputs, own = self._alone, self._gradients_alone
        if outputs is None:
            outputs, own = self._rerun(self._question), self._gradients_of_row
        yield own(outputs)
        yield own(outputs, grads_are_total=False)

    def repeated(self) -> Repeated:
        """Run the call again for all samples, with users' hooks, which may change outputs.

        Raises:
            CannotCompareError: where it gives other outputs than before, not all of their gradients
                were kept, or hooks may have changed those in between.
        """
        if self._hooks or has_backward_hooks(self._question.model):
            raise CannotCompareError
        question = replace(self._question, hooks=has_hooks_of_users(self._question.model))
        outputs = self._rerun(question)
        pairs = list(zip(self._places, outputs, strict=True))
        if not self._matches_outputs([o if place is None else place.of(o) for place, o in pairs]):
            raise CannotCompareError
        if self._whole.keys() != self._grads.keys():
            raise CannotCompareError
        every = self._backward(outputs, self._whole)
        row = self._gradients_of_row(outputs)
        alone = self._run_alone(question) if self._alone is not None else None
        if alone is None:
            return Repeated(every, row, row, changes=False)
        changes = not self._matches_outputs(
            [
                o if p is None else p.of_first(self._count).of(o)
                for p, o in zip(self._places, alone, strict=True)
            ]
        )
        return Repeated(every, row, self._gradients_alone(alone), changes=changes)

    def _matches_outputs(self, outputs: Sequence[Tensor]) -> bool:
        """Whether these are the sample's rows of what the call gave."""
        tolerance = _COARSE if self.coarse else _FAR
        return all(
            given is None or close(output.detach(), given, tolerance)
            for output, given in zip(outputs, self._given, strict=True)
        )

    def _rerun(self, question: Question) -> list[Tensor]:
        kind, dtype, enabled = self._autocast
        after = RandomState(self._parameters[0].device)
        try:
            self._random.restore()
            with torch.autocast(kind, dtype, enabled=enabled):
                outputs = question.outputs(range(self.samples), self._has_samples).tensors
        except Exception as error:
            raise CannotCompareError from error
        finally:
            after.restore()
        if len(outputs) != len(self._given):
            raise CannotCompareError
        return outputs

    def _gradients_alone(self, outputs: list[Tensor], *, grads_are_total: bool = True) -> Gradients:
        places = [place and place.of_first(self._count) for place in self._places]
        return self._backward(
            outputs, self._placed(outputs, places), grads_are_total=grads_are_total
        )

    def _gradients_of_row(
        self, outputs: list[Tensor], *, grads_are_total: bool = True
    ) -> Gradients:
        grads = self._placed(outputs, self._places)
        return self._backward(outputs, grads, grads_are_total=grads_are_total)

    def _placed(self, outputs: list[Tensor], places: Sequence[_Place | None]) -> dict[int, Tensor]:
        placed = {}
        for index, grad in self._grads.items():
            place = places[index]
            if place is not None:
                placed[index] = torch.zeros_like(outputs[index])
                place.of(placed[index]).copy_(grad)
        return placed

    def _backward(
        self, outputs: list[Tensor], grads: dict[int, Tensor], *, grads_are_total: bool = True
    ) -> Gradients:
        """By autograd; total gradients replace what an output receives from later outputs."""
        used = [i for i in grads if outputs[i].grad_fn is not None]
        if not used or _runs_code_of_users([outputs[i] for i in used]):
            raise CannotCompareError
        handles = [
            outputs[i].register_hook(lambda _, grad=grads[i]: grad)  # type: ignore[no-untyped-call]
            for i in used
            if grads_are_total
        ]
        try:
            with _without_hooks(self._parameters), self._question.without_side_effects():
                found = torch.autograd.grad(
                    [outputs[i] for i in used],
                    self._parameters,
                    [grads[i] for i in used],
                    allow_unused=True,
                    retain_graph=True,
                )
        except Exception as error:
            raise CannotCompareError from error
        finally:
            for handle in handles:
                handle.remove()
        pairs = zip(self._parameters, found, strict=True)
        return {id(p): grad.detach() for p, grad in pairs if grad is not None}


def _part(place: _Place | None, tensor: Tensor) -> Tensor:
    return (tensor if place is None else place.of(tensor)).detach().clone()


def _versions(question: Question) -> list[int]:
    return [tensor._version for tensor in question.contents.tensors]


def _rows_differ(outputs: Sequence[Tensor], count: int) -> bool:
    """Whether rows of one and the same sample are others."""
    rows = [tensor.detach() for tensor in outputs if tensor.shape[:1] == (count,)]
    return not all(close(row[:1].expand_as(row), row) for row in rows)


def _runs_code_of_users(outputs: Sequence[Tensor]) -> bool:
    """Whether a backward pass through here runs a function that may do more than differentiate."""
    nodes = [output.grad_fn for output in outputs]
    seen = set(nodes)
    while nodes:
        node = nodes.pop()
        home = getattr(getattr(type(node), "_forward_cls", None), "__module__", "torch")
        if home.split(".")[0] not in ("torch", "adadagrad_kernels"):
            return True
        for following, _ in getattr(node, "next_functions", ()):
            if following is not None and following not in seen:
                seen.add(following)
                nodes.append(following)
    return False


@contextmanager
def _without_hooks(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """A context in which no hook hears of a gradient."""
    places = [p._backward_hooks for p in parameters if p._backward_hooks]
    before = [dict(place) for place in places]
    for place in places:
        place.clear()
    try:
        yield
    finally:
        for place, hooks in zip(places, before, strict=True):
            place.update(hooks)
