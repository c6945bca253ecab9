"""Checks the record against one of its samples: run by itself, the sample must have its norms.

What a model says of a few samples before its forward pass (see ``independence``) cannot show all
that it does with a batch. So whenever the model was asked, the norms that each layer measured for
one sample are compared with those of its gradient by itself. If one differs, the whole batch runs
again. That tells apart a model that mixes samples, one whose layers get gradients by another way
than through what it returns, and rounding that a kink such as ReLU's has made large.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.measuring.independence import Reply
from adadagrad_kernels.statistics.measuring.one_sample import (
    CannotCompareError,
    Gradients,
    OneSample,
)
from adadagrad_kernels.statistics.measuring.samples import OTHER_SOURCES
from adadagrad_kernels.statistics.measuring.uses import Norms, Part
from adadagrad_kernels.statistics.sums import on_host

#: Calls of a model in one micro-batch that are compared; a training step has no more.
_MOST_CALLS = 8
#: How far norms may differ, relative to them: in wider types, and in types of sixteen bits.
_FAR, _COARSE = 2e-2, 1.5e-1
#: The smallest difference that counts, relative to the norm over all layers.
_FLOOR, _COARSE_FLOOR = 1e-3, 3e-2


class Comparison:
    """One sample of a micro-batch, in all calls of the model or of parts of it."""

    def __init__(self) -> None:
        self._calls: list[OneSample] = []
        self._seen = 0

    def begin(self, reply: Reply, *, first: bool) -> None:
        """Run one of a call's samples by itself, where the model was asked for it.

        Args:
            reply: what it has said of the call.
            first: whether the micro-batch is the first of its step.
        """
        if len(self._calls) == _MOST_CALLS:
            # Such as a validation that has grad mode and no backward pass.
            self.forget()
        begun, calls, samples = len(self._calls) == self._seen, self._calls, reply.samples or 0
        self._seen += 1
        answer = reply.answer
        if not first or samples < 2 or answer.moves or not any(answer.has_samples):
            return
        if begun and (reply.asked or calls):
            # The last one first: what comes from those before it shows there.
            row = calls[0].row if calls else (samples - 2 + reply.asked) % samples
            thorough = calls[0].thorough if calls else reply.asked == 1
            calls.append(OneSample(reply.question, reply.answer, samples, row, thorough=thorough))

    def note(self, result: object) -> None:
        """See what the call gave."""
        if self._calls and len(self._calls) == self._seen:
            self._calls[-1].note(result)

    @property
    def waits(self) -> bool:
        """Whether a sample waits to be compared with the norms."""
        return bool(self._calls)

    def judge(self, norms: Sequence[Norms], grads: Mapping[int, Tensor]) -> str | None:
        """Compare what the layers measured with the sample's own gradient, once.

        Args:
            norms: of the micro-batch, whose backward pass is over.
            grads: its gradient, by the identity of parameters.

        Returns:
            Why a difference says nothing of the samples, or None.

        Raises:
            UnsupportedModelError: naming the layer whose norm is that of no sample.
        """
        try:
            return self._judge(norms, grads)
        finally:
            self.forget()

    def forget(self) -> None:
        """Let go of the calls."""
        while self._calls:
            self._calls.pop().release()

    def _judge(self, norms: Sequence[Norms], grads: Mapping[int, Tensor]) -> str | None:
        calls = self._calls
        if not calls or len(calls) < self._seen:
            return None
        try:
            for expected in zip(*(call.gradients() for call in calls), strict=True):
                if _differing(norms, calls, _summed(expected)) is None:
                    return None
            repeated = [call.repeated() for call in calls]
        except CannotCompareError:
            return None
        every = _summed([each.every for each in repeated])
        if not _matches_grad(every, grads, coarse=calls[0].coarse):
            if any(call.has_rowless_gradient for call in calls):
                return None  # where a loss comes from is not known
            return "its layers get gradients by another way than what it returns"
        layer = _differing(norms, calls, _summed([each.alone for each in repeated]))
        changes = any(each.changes for each in repeated)
        if layer is not None and not changes:
            # By itself a unit may lie on the other side of a kink; in the same batch it does not.
            layer = _differing(norms, calls, _summed([each.row for each in repeated]))
        if layer is None:
            return None
        raise UnsupportedModelError(
            f"{layer} has measured another gradient for sample {calls[0].row} of the batch than "
            "follows from that sample's outputs: the model's output for a sample depends on the "
            "others, or the layer's input has rows that are not samples. Ways out: take the "
            f"operation across the batch out of the model; or {OTHER_SOURCES}"
        )


def _summed(each: Sequence[Gradients]) -> Gradients:
    total: Gradients = {}
    for gradients in each:
        for key, gradient in gradients.items():
            total[key] = total[key] + gradient if key in total else gradient
    return total


def _differing(
    norms: Sequence[Norms], calls: Sequence[OneSample], gradients: Gradients
) -> str | None:
    """The layer nearest to the loss with another norm than that of these gradients."""
    row = calls[0].row
    if not norms:
        return None
    both = [each.squared[row].double() for each in norms]
    both += [_squared(each.parts, gradients) for each in norms]
    values = [math.sqrt(value) for (value,) in on_host(both)]
    ours, theirs = values[: len(norms)], values[len(norms) :]
    totals = [math.hypot(*values) for values in (ours, theirs)]
    if not all(math.isfinite(total) for total in totals) or not any(totals):
        return None
    coarse = any(call.coarse for call in calls)
    far, floor = (_COARSE, _COARSE_FLOOR) if coarse else (_FAR, _FLOOR)
    for each, one, other in zip(norms, ours, theirs, strict=True):
        if abs(one - other) > max(far * max(one, other), floor * max(totals)):
            return each.layer
    return None


def _squared(parts: Sequence[Part], gradients: Gradients) -> Tensor:
    """The squared norm of the gradients of some parts, on their device."""
    total = torch.zeros((), dtype=torch.float64, device=parts[0].value.device)
    for part in parts:
        gradient = gradients.get(id(part.parameter))
        if gradient is not None:
            rows = gradient.to_dense().flatten()[part.start : part.start + part.value.numel()]
            total += rows.double().square().sum()
    return total


def _matches_grad(every: Gradients, grads: Mapping[int, Tensor], *, coarse: bool) -> bool:
    """Whether the gradient is what follows from the gradients of the outputs."""
    far, whole = [], []
    for key, grad in grads.items():
        grad = grad.to_dense() if grad.is_sparse else grad
        other = every.get(key)
        difference = grad if other is None else grad - other.to_dense().view_as(grad)
        far.append(difference.double().square().sum())
        whole.append(grad.double().square().sum())
    told = [value for (value,) in on_host([*far, *whole])]
    distance, size = (math.sqrt(sum(part)) for part in (told[: len(far)], told[len(far) :]))
    return distance <= (_COARSE if coarse else _FAR) * size
