"""What the uses of one micro-batch have measured, and what several micro-batches say together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.ops import LayerMoments, batch_moments
from adadagrad_kernels.statistics.accumulator import StatisticsAccumulator
from adadagrad_kernels.statistics.measuring.shared_values import SharedValues
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Part, Use
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import row_products

#: Bytes of contributions at a time, where they have to be built.
_CHUNK_BYTES = 32 * 2**20

Key = tuple[int, int]


@dataclass(eq=False)
class MicroBatch:
    """The samples of one forward and backward pass.

    Attributes:
        samples: how many, or None before the first layer.
        variance: whether the variance of every coordinate is measured.
        inner_products: whether inner products are measured.
        calls: uses of each part in the forward pass.
        rows: those that are read of each parameter, by its identity.
        pending: uses whose parameters others share, or that only listen, until all have arrived.
        sq_norms: by layer, ``[samples]``.
        products: inner products by layer.
        spreads: variances of the contributions to each part.
        sums: the contributions to each pending part, added up.
        parts: every part that was measured.
        arrived: gradients that reached parameters by another way than a replaced gradient.
        had_backward: whether a gradient has arrived.
        shared: what tells the samples apart in the gradients of values that they share.
        waiting: uses whose outputs are shared, until the model has returned.
        listening: nodes behind outputs of layers that only listen, until then.
        reached: identities of the parameters that have got a gradient.
        autocast: whether a layer ran under autocast.
        cumulative: ``.grad`` after it, where another micro-batch follows.
    """

    variance: bool
    inner_products: bool
    samples: int | None = None
    calls: dict[Key, int] = field(default_factory=dict)
    rows: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    pending: list[Use] = field(default_factory=list)
    sq_norms: list[tuple[str, Tensor]] = field(default_factory=list)
    products: list[Tensor] = field(default_factory=list)
    spreads: dict[Key, Tensor] = field(default_factory=dict)
    sums: dict[Key, Tensor] = field(default_factory=dict)
    parts: dict[Key, Part] = field(default_factory=dict)
    arrived: dict[int, Tensor] = field(default_factory=dict)
    had_backward: bool = False
    shared: SharedValues | None = None
    waiting: list[Use] = field(default_factory=list)
    listening: set[Any] = field(default_factory=set)
    reached: set[int] = field(default_factory=set)
    autocast: bool = False
    cumulative: dict[int, Tensor] | None = None

    def count(self, use: Use) -> None:
        """Count a call.

        Raises:
            UnsupportedModelError: for rows of a parameter that overlap those of another call.
        """
        for part in use.parts:
            rows = (part.start, part.start + part.value.numel())
            others = self.rows.setdefault(id(part.parameter), set())
            if any(rows != other and rows[0] < other[1] and other[0] < rows[1] for other in others):
                raise UnsupportedModelError(
                    f"{use.layer} reads all of its packed weight in one call and parts of it in "
                    "another, as an attention that is used for one sequence and for two. Ways out: "
                    "a module for each; or measure with PerSampleGradients"
                )
            others.add(rows)
            self.calls[part.key] = self.calls.get(part.key, 0) + 1

    def shares(self, use: Use) -> bool:
        """Whether another use has a part of this one."""
        return any(self.calls.get(part.key, 0) > 1 for part in use.parts)

    def measured(self) -> set[Key]:
        """The parts that have got a gradient."""
        return {*self.parts, *(part.key for use in self.pending for part in use.parts)}

    def measure(self, use: LayerUse) -> LayerMoments:
        """By the use's op."""
        moments = use.moments(self.variance and use.samples > 1, self.inner_products)
        self.sq_norms.append((use.layer, moments.sq_norms))
        if moments.inner_products is not None:
            self.products.append(moments.inner_products)
        spreads = (moments.weight_variance, moments.bias_variance)
        for part, spread in zip((use.weight, use.bias), spreads, strict=True):
            if part is not None:
                self.parts[part.key] = part
                if spread is not None:
                    self.spreads[part.key] = spread.view(part.value.shape)
        return moments

    @torch.no_grad()
    def finish(self) -> None:
        """Measure what is pending: by contributions, those to one part added up."""
        uses, self.pending = self.pending, []
        if not uses:
            return
        self.parts.update({part.key: part for use in uses for part in use.parts})
        samples = uses[0].samples
        bytes_per_sample = sum(part.value.numel() * 4 for use in uses for part in use.parts)
        size = max(1, _CHUNK_BYTES // max(1, bytes_per_sample))
        chunks = [slice(i, min(i + size, samples)) for i in range(0, samples, size)]
        whole = len(chunks) == 1
        accumulator = StatisticsAccumulator()
        for chunk in chunks:
            moments = {}
            for key, rows in _contributions(uses, chunk).items():
                measured = batch_moments(
                    rows.reshape(len(rows), self.parts[key].value.numel()),
                    variance=self.variance and len(rows) > 1,
                    inner_products=self.inner_products and whole,
                )
                if self.variance and measured.variance is None:
                    measured = measured._replace(variance=torch.zeros_like(measured.mean))
                moments[_name(key)] = measured
            accumulator.add(GradientStatistics.from_moments(moments))
        record = accumulator.result()
        for key in _keys(uses):
            shape = self.parts[key].value.shape
            self.sums[key] = (record.require_mean_gradient()[_name(key)] * samples).view(shape)
            if self.variance and record.variance is not None:
                self.spreads[key] = record.variance[_name(key)].view(shape)
        assert record.sq_norms is not None
        self.sq_norms.append((", ".join(dict.fromkeys(use.layer for use in uses)), record.sq_norms))
        if self.inner_products:
            self.products.append(self._pending_products(uses, chunks, record))
        for use in uses:
            use.release()

    def _pending_products(
        self, uses: Sequence[Use], chunks: Iterable[slice], record: GradientStatistics
    ) -> Tensor:
        """<h_i, sum>; in a second pass where there were several chunks."""
        if record.inner_products is not None:
            return record.inner_products * record.batch_size
        products = []
        for chunk in chunks:
            rows = _contributions(uses, chunk)
            products.append(
                torch.stack(
                    [
                        row_products(r.reshape(len(r), -1), self.sums[k].reshape(-1))
                        for k, r in rows.items()
                    ]
                ).sum(0)
            )
        return torch.cat(products)


def _contributions(uses: Sequence[Use], rows: slice) -> dict[Key, Tensor]:
    """Those to each part, added over the uses."""
    total: dict[Key, Tensor] = {}
    for use in uses:
        for part, contribution in zip(use.parts, use.contributions(rows), strict=True):
            before = total.get(part.key)
            total[part.key] = contribution if before is None else before + contribution
    return total


def _keys(uses: Iterable[Use]) -> list[Key]:
    return list(dict.fromkeys(part.key for use in uses for part in use.parts))


def _name(key: Key) -> str:
    return f"{key[0]}:{key[1]}"
