"""EmbeddingBag: runner and use; a bag is a sample, the sum of some rows of an embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.layers.by_vmap import call_module
from adadagrad_kernels.statistics.layers.embedding import EmbeddingUse
from adadagrad_kernels.statistics.layers.ragged_bags import RaggedBagUse, in_one_row
from adadagrad_kernels.statistics.layers.registry import (
    Layer,
    Runner,
    computed_with,
    finder,
    part_of,
    runs_as,
)
from adadagrad_kernels.statistics.measuring.recorder import Recorder
from adadagrad_kernels.statistics.measuring.uses import LayerUse, upcast


@finder
def find(module: nn.Module) -> Runner | None:
    """For ``nn.EmbeddingBag``."""
    return _embedding_bag if runs_as(module, nn.EmbeddingBag) else None


def _embedding_bag(
    recorder: Recorder,
    layer: Layer,
    input: Tensor,
    offsets: Tensor | None = None,
    per_sample_weights: Tensor | None = None,
) -> Any:
    """The module's forward, with its arguments.

    Raises:
        UnsupportedModelError: for the largest rows of bags of different lengths.
    """
    module = layer.module
    if module.mode == "max":
        if offsets is None:
            return call_module(recorder, layer, input, None, per_sample_weights)
        raise UnsupportedModelError(
            f"{layer.name} takes the largest rows of bags of different lengths. Way out: bags of "
            "one length, [samples, positions], filled up with a padding_idx"
        )
    use: LayerUse
    weight = part_of(module.weight)
    # How many rows a sparse gradient has, autograd has to wait for in any case.
    if offsets is None or module.sparse:
        use = BagUse(layer.name, weight=weight, sparse=module.sparse)
    else:
        use = RaggedBagUse(layer.name, weight=weight)
    if not recorder.count_call(use):
        return layer.forward(input, offsets, per_sample_weights)
    computed, _ = computed_with(recorder, module.weight, None)
    output = F.embedding_bag(
        input,
        computed,
        offsets,
        module.max_norm,
        module.norm_type,
        module.scale_grad_by_freq,
        module.mode,
        module.sparse,
        per_sample_weights,
        module.include_last_offset,
        module.padding_idx,
    )
    with torch.no_grad():
        if isinstance(use, RaggedBagUse):
            assert offsets is not None
            saved = _in_one_row(module, input, offsets, per_sample_weights)
        else:
            saved = _in_rows(module, input, offsets, per_sample_weights)
    return recorder.attach(use, output, saved)


def _in_one_row(
    module: nn.EmbeddingBag, input: Tensor, offsets: Tensor, weights: Tensor | None
) -> list[Tensor]:
    """Starts of the bags; indices, their factors and their bags, ``[1, positions]``."""
    starts, bags = in_one_row(offsets, len(input), include_last=module.include_last_offset)
    factors = _factors(module, input, weights)
    if module.mode == "mean":
        sizes = factors.new_zeros(len(starts)).index_add_(0, bags, factors)
        factors = factors / sizes.clamp_(min=1)[bags]
    return [starts, input.unsqueeze(0), factors.unsqueeze(0), bags.unsqueeze(0)]


def _factors(module: nn.EmbeddingBag, input: Tensor, weights: Tensor | None) -> Tensor:
    """What each row is multiplied by; zero for the padding."""
    kind = torch.float64 if module.weight.dtype == torch.float64 else torch.float32
    factors = torch.ones_like(input, dtype=kind) if weights is None else upcast(weights)
    if module.padding_idx is not None:
        factors = factors * (input != module.padding_idx)
    return factors


def _in_rows(
    module: nn.EmbeddingBag, input: Tensor, offsets: Tensor | None, weights: Tensor | None
) -> list[Tensor]:
    """Indices and their factors, ``[bags, positions]``; bags are filled up with factors of zero."""
    factors = _factors(module, input, weights)
    if offsets is not None:
        ends = offsets.new_full((1,), len(input))
        bounds = offsets if module.include_last_offset else torch.cat([offsets, ends])
        lengths = bounds.diff()
        places = torch.arange(int(lengths.max()) if len(lengths) else 0, device=input.device)
        inside = places < lengths.unsqueeze(1)
        where = (bounds[:-1].unsqueeze(1) + places).clamp_(max=max(len(input) - 1, 0))
        input, factors = input[where], factors[where] * inside
    if module.mode == "mean":
        factors = factors / factors.sum(1, keepdim=True).clamp_(min=1)
    return [input, factors]


@dataclass(eq=False)
class BagUse(EmbeddingUse):
    """``F.embedding_bag`` of sums and means; saved are indices and factors."""

    @property
    def grad(self) -> Tensor:
        """The gradient of every row that was looked up, ``[bags, positions, features]``."""
        rows = self.grads[0].unsqueeze(-2)
        return (upcast(rows) * self.saved[1].to(rows.device).unsqueeze(-1)).to(rows.dtype)
