"""One use of a layer in a forward pass: what its backward pass needs to measure the samples.

Every use can build the contributions of some samples at a time. The uses of common layers also
know an op that gives the same numbers without building them all (ghost norms, or chunks). The slow
way is for parameters that several uses share, whose contributions must be added before squaring.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from adadagrad_kernels.checks import ACCUMULATION_DTYPES
from adadagrad_kernels.ops import LayerMoments, batch_moments
from adadagrad_kernels.statistics.measuring.rows import Rows


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of a parameter that a use reads: all of them, except in packed projections.

    Attributes:
        parameter: the parameter of the model.
        start: the first of the rows.
        value: those rows; the parameter itself, or a view of it; where the parameter is sharded,
            of what stands in for it.
    """

    parameter: nn.Parameter
    start: int
    value: Tensor

    @property
    def key(self) -> tuple[int, int]:
        """Equal for uses of the same rows."""
        return (id(self.parameter), self.start)

    @property
    def is_whole(self) -> bool:
        """Whether these are all rows."""
        return isinstance(self.value, nn.Parameter)


@dataclass(frozen=True, eq=False)
class Norms:
    """What the samples contributed to some parts.

    Attributes:
        layer: or several layers, where these have parts in common.
        parts: that were measured together.
        squared: norms over all of them, ``[samples]``.
    """

    layer: str
    parts: tuple[Part, ...]
    squared: Tensor


@dataclass(eq=False)
class Use(ABC):
    """A layer called once.

    Attributes:
        layer: name and type, for messages.
        arrivals: how often the gradient of an output came back, at most.
        saved: what its forward pass kept, from the backward pass on.
        grads: the gradients of its outputs, samples first, by their place.
        shared: whether its input has no rows for the samples, so that all share its output.
        node: of the graph, behind a shared output.
        folds: whether any dimensions may come before the last one.
        arranged: puts the samples first, where they are elsewhere.
        changed_in_place: whether something has written to what was saved.
        copies: how many ranks measure the same for the same samples.
        addends: a process group whose ranks have only addends of its contributions, or None.
        micro_batch: the ``MicroBatch`` in which it is measured.
    """

    layer: str
    micro_batch: Any = None
    shared: bool = False
    node: Any = None
    folds: bool = True
    arrivals: int = 0
    changed_in_place: bool = False
    copies: int = 1
    addends: Any = None
    arranged: Callable[[Tensor], Tensor] | None = None
    saved: Sequence[Tensor] = ()
    grads: dict[int, Tensor] = field(default_factory=dict)

    @property
    @abstractmethod
    def parts(self) -> list[Part]:
        """The parts of its parameters that require grad."""

    @abstractmethod
    def contributions(self, rows: slice) -> list[Tensor]:
        """h_i of each part for some samples, ``[samples, *shape]``, in the dtype of sums."""

    @property
    def own_moments(self) -> tuple[Tensor, Tensor] | None:
        """Sum of the contributions to its only part, and their norms; None without a short way."""
        return None

    def cross_dots(self, other: Use) -> Tensor | None:
        """<h_i, h_i of another use of the same part>, ``[samples]``; None without a short way."""
        return None

    def dots_with(self, gradient: Tensor) -> Tensor | None:
        """<h_i, gradient> of its only part, ``[samples]``; None without a short way."""
        return None

    def add_contributions(self, rows: slice, total: dict[tuple[int, int], Tensor]) -> None:
        """Add those of some samples to what other uses of its parts have contributed."""
        for part, contribution in zip(self.parts, self.contributions(rows), strict=True):
            if self.addends is not None:
                dist.all_reduce(contribution, group=self.addends)
            before = total.get(part.key)
            total[part.key] = contribution if before is None else before.add_(contribution)

    @property
    def samples(self) -> int:
        """Samples of its gradients."""
        return len(next(iter(self.grads.values())))

    def lay_out(self, kind: Rows, inputs: Tensor, samples: int) -> int:
        """Note where an input that folds has its samples; returns their number."""
        if kind is Rows.MERGED and len(inputs) % samples == 0 and len(inputs) > samples:
            self.arranged = lambda tensor: tensor.reshape(samples, -1, *tensor.shape[1:])
            return samples
        if kind is Rows.SECOND and inputs.shape[1] == samples:
            self.arranged = lambda tensor: tensor.transpose(0, 1)
            return samples
        return len(inputs)

    def arrange(self) -> None:
        """Put the samples first in what was saved and in the gradients."""
        if self.arranged is not None:
            self.saved = [self.arranged(tensor) for tensor in self.saved]
            self.grads = {place: self.arranged(grad) for place, grad in self.grads.items()}
            self.arranged = None

    def release(self) -> None:
        """Give back the memory of what was saved."""
        self.saved, self.grads, self.node = (), {}, None


@dataclass(eq=False)
class LayerUse(Use):
    """A layer of a kind that has an op, with one output.

    Attributes:
        weight: the part that is its weight, or None where that is frozen or missing.
        bias: the part that is its bias, or None.
        least_dimensions: those of an input with samples.
        output: placements of its output, where that is sharded by a tensor-parallel plan.
    """

    weight: Part | None = None
    bias: Part | None = None
    least_dimensions: int = 2
    output: tuple[Any, ...] | None = None
    _own: tuple[Tensor, Tensor] | None = None

    @property
    def parts(self) -> list[Part]:
        """Weight and bias, as far as they require grad."""
        return [part for part in (self.weight, self.bias) if part is not None]

    @property
    def grad(self) -> Tensor:
        """The gradient of the output."""
        return self.grads[0]

    @abstractmethod
    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """Gradient and statistics by the layer's op, for its parts alone."""

    def gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias gradient alone; the norms that come with them are kept."""
        moments = self.moments(variance=False, inner_products=False)
        if self.bias is None and self.weight is not None:
            self._own = (moments.weight_grad, moments.sq_norms)
        return self.restored(moments)

    def as_one(self) -> LayerUse:
        """The same for a batch of one sample, to which all of a shared value belongs."""
        one = copy.copy(self)
        if self.folds:
            one.saved = [tensor.unsqueeze(0) for tensor in self.saved]
            one.grads = {place: grad.unsqueeze(0) for place, grad in self.grads.items()}
        return one

    @property
    def own_moments(self) -> tuple[Tensor, Tensor] | None:
        """As they came with the gradient, or anew."""
        if self.weight is None or self.bias is not None or self.weight.value.is_sparse:
            return None
        if self.addends is not None:
            return None
        if self._own is None:
            self.gradients()
        return self._own

    def see_rows_of(self, rank: int, ranks: int, parameter: Tensor) -> None:
        """Note that this rank has a part of the weight, where that concerns what was saved."""

    def release(self) -> None:
        """Give back the memory of what was saved."""
        super().release()
        self._own = None

    def restored(self, moments: LayerMoments) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias gradient in the shape and dtype of the parameters."""
        return _like(moments.weight_grad, self.weight), _like(moments.bias_grad, self.bias)


def _like(grad: Tensor | None, part: Part | None) -> Tensor | None:
    if part is None or grad is None:
        return None
    return grad.view(part.value.shape).to(part.value.dtype)


def bias_moments(rows: Tensor, variance: bool, inner_products: bool) -> LayerMoments:
    """The moments of a bias alone, whose contributions are the rows ``[samples, features]``."""
    moments = batch_moments(rows, variance=variance, inner_products=inner_products)
    dots = moments.inner_products
    return LayerMoments(
        weight_grad=rows.new_empty(0),
        bias_grad=moments.mean * len(rows),
        sq_norms=moments.sq_norms,
        weight_variance=None,
        bias_variance=moments.variance,
        inner_products=None if dots is None else dots * len(rows),
    )


def upcast(tensor: Tensor) -> Tensor:
    """In the dtype of sums."""
    return tensor.to(ACCUMULATION_DTYPES[tensor.dtype])


def as_sequences(tensor: Tensor) -> Tensor:
    """``[samples, ..., features]`` as ``[samples, positions, features]``."""
    samples, *positions, features = tensor.shape
    return tensor.reshape(samples, torch.Size(positions).numel(), features)
