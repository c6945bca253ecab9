"""What the uses of one micro-batch have measured."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.ops import LayerMoments
from adadagrad_kernels.statistics.measuring import pending
from adadagrad_kernels.statistics.measuring.comparison import Comparison
from adadagrad_kernels.statistics.measuring.samples import OTHER_SOURCES
from adadagrad_kernels.statistics.measuring.shared_uses import SharedUses
from adadagrad_kernels.statistics.measuring.uses import LayerUse, Norms, Part, Use

Key = tuple[int, int]


@dataclass(eq=False)
class MicroBatch:
    """The samples of one forward and backward pass.

    Attributes:
        samples: how many, or None before the first layer.
        variance: whether the variance of every coordinate is measured.
        inner_products: whether inner products are measured.
        calls: uses of each part in the forward pass.
        comparison: with a sample that is run by itself.
        rows: the rows read of each parameter, by its identity.
        pending: uses whose parameters others share, or that only listen, until all have arrived.
        norms: of the contributions, by layer.
        dots_with_sum: <h_i, sum_j h_j> by layer: <g_i, g> / b.
        variances: of the contributions to each part.
        sums: the contributions to each pending part, added up.
        parts: every part that was measured.
        arrived: gradients that reached parameters by another way than a replaced gradient.
        had_backward: whether a gradient has arrived.
        shared: the uses whose outputs all samples share.
        reached: identities of the parameters that have got a gradient.
        autocast: whether a layer ran under autocast.
        cumulative: ``.grad`` after it, where another micro-batch follows.
        own: its gradient by the identity of parameters, where ``.grad`` is that of all ranks.
        keeps: whether uses stay as they are once they were measured, for inner products with a
            mean that is known later.
        kept: those uses.
        closed: whether nothing more is measured.
    """

    variance: bool
    inner_products: bool
    keeps: bool = False
    samples: int | None = None
    calls: dict[Key, int] = field(default_factory=dict)
    comparison: Comparison = field(default_factory=Comparison)
    rows: dict[int, set[tuple[int, int]]] = field(default_factory=dict)
    pending: list[Use] = field(default_factory=list)
    norms: list[Norms] = field(default_factory=list)
    dots_with_sum: list[Tensor] = field(default_factory=list)
    variances: dict[Key, Tensor] = field(default_factory=dict)
    sums: dict[Key, Tensor] = field(default_factory=dict)
    parts: dict[Key, Part] = field(default_factory=dict)
    arrived: dict[int, Tensor] = field(default_factory=dict)
    had_backward: bool = False
    shared: SharedUses = field(default_factory=SharedUses)
    reached: set[int] = field(default_factory=set)
    autocast: bool = False
    cumulative: dict[int, Tensor] | None = None
    own: dict[int, Tensor] = field(default_factory=dict)
    kept: list[Use] = field(default_factory=list)
    closed: bool = False

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
                    "another, as attention does that serves one sequence and two. Ways out: "
                    f"a module for each; or {OTHER_SOURCES}"
                )
            others.add(rows)
            self.calls[part.key] = self.calls.get(part.key, 0) + 1

    def forget(self) -> None:
        """Let go of the graph and of what was run beside it."""
        self.shared.forget()
        self.comparison.forget()
        self.kept = []

    def leave(self, use: Use) -> None:
        """Let go of a use that was measured."""
        if self.keeps:
            self.kept.append(use)
        else:
            use.release()

    def shares(self, use: Use) -> bool:
        """Whether another use has a part of this one."""
        return any(self.calls.get(part.key, 0) > 1 for part in use.parts)

    def measured(self) -> set[Key]:
        """The parts that have got a gradient."""
        return {*self.parts, *(part.key for use in self.pending for part in use.parts)}

    def measure(self, use: LayerUse) -> LayerMoments:
        """By the use's op."""
        moments = use.moments(self.variance and use.samples > 1, self.inner_products)
        self.norms.append(Norms(use.layer, tuple(use.parts), _shared(moments.sq_norms, use)))
        if moments.inner_products is not None:
            self.dots_with_sum.append(_shared(moments.inner_products, use))
        variances = (moments.weight_variance, moments.bias_variance)
        for part, variance in zip((use.weight, use.bias), variances, strict=True):
            if part is not None:
                self.parts[part.key] = part
                if variance is not None:
                    self.variances[part.key] = variance.view(part.value.shape)
        return moments

    @torch.no_grad()
    def finish(self) -> None:
        """Measure what is pending: by contributions, those to one part added up."""
        uses, self.pending = self.pending, []
        self._measure_all(uses)

    def note_nothing(self, use: Use) -> None:
        """Note a use of whose parameters this rank has no rows."""
        self.parts.update({part.key: part for part in use.parts})
        self.sums.update({part.key: torch.zeros_like(part.value) for part in use.parts})

    @torch.no_grad()
    def measure_together(self, use: Use) -> None:
        """Measure a use of whose contributions this rank has addends."""
        self._measure_all([use])

    def _measure_all(self, uses: list[Use]) -> None:
        if not uses:
            return
        self.parts.update({part.key: part for use in uses for part in use.parts})
        for group in pending.groups(uses):
            found = pending.measure(group, self.variance, self.inner_products)
            layers = ", ".join(dict.fromkeys(use.layer for use in group))
            parts = {part.key: part for use in group for part in use.parts}
            norms = _shared(found.sq_norms, group[0])
            self.norms.append(Norms(layers, tuple(parts.values()), norms))
            self.sums.update(found.sums)
            self.variances.update(found.variances)
            if found.dots_with_sum is not None:
                self.dots_with_sum.append(_shared(found.dots_with_sum, group[0]))
            for use in group:
                self.leave(use)


def _shared(squared: Tensor, use: Use) -> Tensor:
    """This rank's share of what adds up over the ranks."""
    return squared if use.copies == 1 else squared / use.copies
