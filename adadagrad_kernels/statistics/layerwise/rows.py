"""Normalisations and embeddings: layers whose weight gradient is a sum over single rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adadagrad_kernels.ops import LayerMoments, embedding_moments, norm_layer_moments
from adadagrad_kernels.statistics.layerwise.uses import LayerUse, as_sequences, bias_moments, wide


@dataclass(eq=False)
class NormUse(LayerUse):
    """LayerNorm, RMSNorm or GroupNorm; saved are inputs, rstd and, but for RMSNorm, mean.

    Attributes:
        features: elements of the weight, the trailing dimensions of the inputs; 0 where channels
            come second (GroupNorm).
    """

    features: int = 0

    def moments(self, variance: bool, inner_products: bool) -> LayerMoments:
        """By ``ops.norm_layer_moments``."""
        outputs = self._rows(self.grad)
        asked = {"variance": variance, "inner_products": inner_products}
        if self.weight is None:
            return bias_moments(wide(outputs).sum(1), **asked)
        inputs, rstd, mean = self._normalised(self.saved)
        bias = self.bias is not None
        kind = torch.promote_types(inputs.dtype, outputs.dtype)
        inputs, outputs = inputs.to(kind), outputs.to(kind)
        return norm_layer_moments(inputs, outputs, mean, rstd, bias=bias, **asked)

    def contributions(self, rows: slice) -> list[Tensor]:
        """Sums over positions."""
        outputs = wide(self._rows(self.grad[rows]))
        bias = [outputs.sum(1)] if self.bias is not None else []
        if self.weight is None:
            return [row.view(len(row), *self.bias.value.shape) for row in bias] if self.bias else []
        inputs, rstd, mean = self._normalised([tensor[rows] for tensor in self.saved])
        width = inputs.shape[2] // rstd.shape[2]
        values = wide(inputs)
        if mean is not None:
            values = values - mean.repeat_interleave(width, 2)
        weight = (outputs * values * rstd.repeat_interleave(width, 2)).sum(1)
        return [weight.view(len(weight), *self.weight.value.shape), *bias]

    def _rows(self, tensor: Tensor) -> Tensor:
        """``[samples, positions, features]``."""
        if self.features:
            return tensor.reshape(len(tensor), -1, self.features)
        return tensor.reshape(*tensor.shape[:2], tensor.shape[2:].numel()).mT

    def _normalised(self, saved: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        inputs, *statistics = saved
        shape = (len(inputs), -1, 1) if self.features else (len(inputs), 1, -1)
        kind = torch.float64 if inputs.dtype == torch.float64 else torch.float32
        rstd, *mean = [tensor.to(kind).reshape(shape) for tensor in statistics]
        return self._rows(inputs), rstd, mean[0] if mean else None


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
        spread = moments.weight_variance
        if spread is not None:
            spread = spread.new_zeros(self.weight.value.shape).index_copy_(0, used.long(), spread)
        rows = moments.weight_grad
        if padding is not None:
            kept = torch.arange(len(used), device=used.device) != padding
            used, rows = used[kept], rows[kept]
        weight_grad = torch.sparse_coo_tensor(
            used.long().unsqueeze(0),
            rows,
            tuple(self.weight.value.shape),
            check_invariants=False,
            is_coalesced=True,
        )
        return moments._replace(weight_grad=weight_grad, weight_variance=spread)

    def restored(self, moments: LayerMoments) -> tuple[Tensor | None, Tensor | None]:
        """A sparse gradient keeps its form."""
        if not self.sparse:
            return super().restored(moments)
        assert self.weight is not None
        return moments.weight_grad.to(self.weight.value.dtype), None

    def contributions(self, rows: slice) -> list[Tensor]:
        """Zeros but in the rows that a sample looked up."""
        assert self.weight is not None
        outputs = as_sequences(wide(self.grad[rows]))
        samples, _, features = outputs.shape
        indices = self.saved[0][rows].reshape(samples, -1, 1).long().expand(-1, -1, features)
        weight = outputs.new_zeros(samples, *self.weight.value.shape)
        weight.scatter_add_(1, indices, outputs)
        if self.padding_idx is not None:
            weight[:, self.padding_idx] = 0
        return [weight]
