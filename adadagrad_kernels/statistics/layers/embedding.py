"""Embeddings: runner and use; the op is ``ops.embedding_moments``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.ops import LayerMoments, embedding_moments
from adadagrad_kernels.statistics.layers.linear import LinearUse
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Runner,
    computed_with,
    finder,
    part_of,
    runs_as,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.uses import (
    LayerUse,
    Use,
    as_sequences,
    upcast,
)


@finder
def find(module: nn.Module) -> Runner | None:
    """For ``nn.Embedding``."""
    return _embedding if runs_as(module, nn.Embedding) else None


def _embedding(recorder: Recorder, layer: Layer, input: Tensor) -> Tensor:
    module = layer.module
    use = EmbeddingUse(
        layer.name,
        weight=part_of(module.weight),
        padding_idx=module.padding_idx,
        sparse=module.sparse,
    )
    if not recorder.count_call(use):
        output: Tensor = layer.forward(input)
        return output
    weight, _ = computed_with(recorder, module.weight, None)
    output = F.embedding(
        input, weight, module.padding_idx, module.max_norm, module.norm_type, sparse=module.sparse
    )
    return recorder.attach(use, output, [input])


@dataclass(eq=False)
class EmbeddingUse(LayerUse):
    """``F.embedding``; saved are the indices ``[samples, ...]``.

    Attributes:
        padding_idx: a row without gradient, or None.
        sparse: whether the gradient is a sparse tensor.
    """

    least_dimensions: int = 1
    padding_idx: int | None = None
    sparse: bool = False

    def see_rows_of(self, rank: int, ranks: int, parameter: Tensor) -> None:
        """Leave what other ranks look up without a gradient, if they have the other rows."""
        given: Any = parameter
        if not given.placements[-1].is_shard(0):
            return
        assert self.weight is not None
        if not len(self.weight.value):
            return
        start = min(rank * -(-len(parameter) // ranks), len(parameter))
        indices = self.saved[0] - start
        here = (indices >= 0) & (indices < len(self.weight.value))
        self.saved = [torch.where(here, indices, 0)]
        self.grads = {0: self.grad * here.unsqueeze(-1)}
        padding = None if self.padding_idx is None else self.padding_idx - start
        known = padding is not None and 0 <= padding < len(self.weight.value)
        self.padding_idx = padding if known else None

    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """By ``ops.embedding_moments``; of the rows in use alone where the gradient is sparse."""
        assert self.weight is not None
        indices, count, padding = self.saved[0], len(self.weight.value), self.padding_idx
        asked = {"variance": variance, "inner_products": inner_products}
        if not self.sparse:
            return embedding_moments(indices, self.grad, count, padding_idx=padding, **asked)
        used, places = torch.unique(indices, return_inverse=True)
        if padding is not None:
            at = (used == padding).nonzero().flatten().tolist()
            padding = at[0] if at else None
        moments = embedding_moments(places, self.grad, len(used), padding_idx=padding, **asked)
        row_variance = moments.weight_variance
        if row_variance is not None:
            row_variance = row_variance.new_zeros(self.weight.value.shape).index_copy_(
                0, used.long(), row_variance
            )
        rows = moments.weight_grad
        if padding is not None:
            kept = torch.arange(len(used), device=used.device) != padding
            used, rows = used[kept], rows[kept]
        weight_grad = torch.sparse_coo_tensor(
            used.long().unsqueeze(0),
            rows,
            tuple(self.weight.value.shape),
            device=rows.device,
            check_invariants=False,
            is_coalesced=True,
        )
        return moments._replace(weight_grad=weight_grad, weight_variance=row_variance)

    def restored(self, moments: LayerMoments) -> tuple[Tensor | None, Tensor | None]:
        """A sparse gradient keeps its form."""
        if not self.sparse:
            return super().restored(moments)
        assert self.weight is not None
        return moments.weight_grad.to(self.weight.value.dtype), None

    def contributions(self, rows: slice) -> list[Tensor]:
        """Zeros except in the rows that a sample looked up."""
        assert self.weight is not None
        outputs = as_sequences(upcast(self.grad[rows]))
        samples, _, features = outputs.shape
        indices = self.saved[0][rows].reshape(samples, -1, 1).long().expand(-1, -1, features)
        weight = outputs.new_zeros(samples, *self.weight.value.shape)
        weight.scatter_add_(1, indices, outputs)
        if self.padding_idx is not None:
            weight[:, self.padding_idx] = 0
        return [weight]

    def add_contributions(self, rows: slice, total: dict[tuple[int, int], Tensor]) -> None:
        """Into the rows that were looked up, where another use has built the rest."""
        assert self.weight is not None
        before = total.get(self.weight.key)
        if before is None:
            super().add_contributions(rows, total)
            return
        indices, outputs = self._looked_up(rows)
        places = indices.unsqueeze(2).expand_as(outputs)
        before.scatter_add_(1, places, outputs)

    def cross_dots(self, other: Use) -> Tensor | None:
        """With a linear layer: sum over s, t of g_s . x_t times y_t at the index of s."""
        indices, outputs = self._looked_up(slice(None))
        if isinstance(other, EmbeddingUse):
            theirs, others = other._looked_up(slice(None))
            pairs = torch.bmm(outputs, others.mT)
            pairs *= indices.unsqueeze(2) == theirs.unsqueeze(1)
        elif isinstance(other, LinearUse) and not other.transposed:
            pairs = torch.bmm(other._inputs, outputs.mT)
            places = indices.unsqueeze(1).expand(-1, pairs.shape[1], -1)
            pairs *= other._outputs.gather(2, places)
        else:
            return None
        return pairs.flatten(1).sum(1, dtype=torch.float64)

    def dots_with(self, gradient: Tensor) -> Tensor:
        """Sum over the rows that were looked up."""
        indices, outputs = self._looked_up(slice(None))
        rows = gradient.to(outputs.dtype)[indices]
        return rows.mul_(outputs).flatten(1).sum(1, dtype=torch.float64)

    @property
    def own_moments(self) -> tuple[Tensor, Tensor] | None:
        """None where the gradient is sparse."""
        return None if self.sparse else super().own_moments

    def _looked_up(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Indices ``[samples, positions]``, and their gradients with zeros for the padding."""
        outputs = as_sequences(upcast(self.grad[rows]))
        indices = self.saved[0][rows].reshape(len(outputs), -1).long()
        if self.padding_idx is not None:
            outputs = outputs.masked_fill((indices == self.padding_idx).unsqueeze(2), 0)
        return indices, outputs
