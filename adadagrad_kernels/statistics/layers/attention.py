"""``nn.MultiheadAttention`` as linear layers around scaled dot-product attention.

Its own forward passes its weights to one function; here each projection is a linear layer that can
be measured. Samples come first throughout, whatever ``batch_first`` says of the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.statistics.layers.linear import LinearUse, linear
from adadagrad_kernels.statistics.layers.registry import Layer, computed_with, part_of
from adadagrad_kernels.statistics.measuring.recorder import Recorder


def attention(
    recorder: Recorder,
    layer: Layer,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The module's forward, with its arguments.

    Raises:
        ValueError: for inputs without a dimension for the samples.
    """
    module = layer.module
    if query.dim() != 3:
        raise ValueError(
            f"{layer.name} has a query of shape {tuple(query.shape)} without a dimension for the "
            "samples; pass a batch, [samples, positions, features] with batch_first=True"
        )
    if is_causal and attn_mask is None:
        raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
    projected = _projections(recorder, layer, query, key, value)
    mask = _mask(projected, module.num_heads, key_padding_mask, attn_mask)
    if module.bias_k is not None:
        for place, bias in ((1, module.bias_k), (2, module.bias_v)):
            more = _row_of_all(recorder, layer.name, bias, projected[place])
            projected[place] = torch.cat([projected[place], more], 1)
        mask = None if mask is None else F.pad(mask, (0, 1))
    query, key, value = (_heads(tensor, module.num_heads) for tensor in projected)
    if module.add_zero_attn:
        key, value = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))
        mask = None if mask is None else F.pad(mask, (0, 1))
    dropout = module.dropout if module.training else 0.0
    weights = None
    if need_weights:
        mixed, weights = _weighted(query, key, value, mask, dropout)
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        mixed = F.scaled_dot_product_attention(query, key, value, mask, dropout)
    together = mixed.transpose(1, 2).flatten(2)
    out = module.out_proj
    output = linear(recorder, f"{layer.name}, out_proj", together, out.weight, out.bias)
    # In the memory order of the module's own output, in which a dropout after it draws.
    output = output.transpose(0, 1).contiguous()
    return (output.transpose(0, 1) if module.batch_first else output), weights


def _projections(
    recorder: Recorder, layer: Layer, query: Tensor, key: Tensor, value: Tensor
) -> list[Tensor]:
    """Query, key and value ``[samples, positions, features]``; what is equal is projected once."""
    module: Any = layer.module
    size = module.embed_dim
    self_attention, same_memory = query is key and key is value, key is value
    if not module.batch_first:
        query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
    weight, bias = module.in_proj_weight, module.in_proj_bias

    def project(inputs: Tensor, start: int, stop: int, own: nn.Parameter | None = None) -> Tensor:
        rows = slice(start * size, stop * size)
        whole = (start, stop) == (0, 3)
        shift = bias if bias is None or whole else bias[rows]
        scale = own if own is not None else weight if whole else weight[rows]
        return linear(recorder, layer.name, inputs, scale, shift)

    if weight is None:
        return [
            project(query, 0, 1, module.q_proj_weight),
            project(key, 1, 2, module.k_proj_weight),
            project(value, 2, 3, module.v_proj_weight),
        ]
    if self_attention:
        return list(project(query, 0, 3).chunk(3, -1))
    if same_memory:
        return [project(query, 0, 1), *project(key, 1, 3).chunk(2, -1)]
    return [project(query, 0, 1), project(key, 1, 2), project(value, 2, 3)]


def _heads(tensor: Tensor, heads: int) -> Tensor:
    """``[samples, positions, features]`` as ``[samples, heads, positions, features / heads]``."""
    samples, positions, features = tensor.shape
    return tensor.view(samples, positions, heads, features // heads).transpose(1, 2)


def _row_of_all(recorder: Recorder, name: str, bias: nn.Parameter, like: Tensor) -> Tensor:
    """A parameter ``[1, 1, features]`` as a row of every sample, which is what a bias gives."""
    shape = (len(like), 1, bias.shape[-1])
    use = LinearUse(name, weight=None, bias=part_of(bias))
    if not use.parts or not recorder.count_call(use):
        return bias.expand(shape).to(like.dtype)
    _, shift = computed_with(recorder, None, bias)
    return recorder.attach(use, shift.expand(shape).to(like.dtype, copy=True), [like])


def _mask(
    projected: Sequence[Tensor],
    heads: int,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
) -> Tensor | None:
    """Both masks as what is added to the scores, ``[samples or 1, heads or 1, positions, keys]``.

    A boolean mask is True where a key must not be seen.
    """
    total, (query, key) = None, projected[:2]
    sizes = (query.shape[1], key.shape[1])
    if attn_mask is not None:
        shape = (-1, heads) if attn_mask.dim() == 3 else (1, 1)
        total = _added(attn_mask, query).view(*shape, *sizes)
    if key_padding_mask is not None:
        padding = _added(key_padding_mask, query).view(len(query), 1, 1, sizes[1])
        total = padding if total is None else total + padding
    return total


def _added(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    zeros = torch.zeros(mask.shape, dtype=like.dtype, device=mask.device)
    return zeros.masked_fill_(mask, float("-inf"))


def _weighted(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    scores = (query * sqrt(1.0 / query.shape[-1])) @ key.mT
    if mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    if dropout > 0.0:
        weights = F.dropout(weights, dropout)
    return weights @ value, weights
