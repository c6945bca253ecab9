"""The calls of normalisations and embeddings, for calls.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import ops

#: Statistics for each position, and for each group of features with positions side by side.
ROW_CALLS = ("norm_layer_moments", "norm_layer_moments of groups", "embedding_moments")

ASKED = {"variance": True, "inner_products": True}


def row_arguments(
    name: str, normal: Callable[..., Tensor], samples: int, features: int
) -> tuple[Any, ...]:
    """The fields of a Call on tensors made by ``normal``; of about ``features`` elements each."""
    registered = torch.ops.adadagrad_kernels
    width = max(6, min(features, 300) // 6 * 6)
    if name == "embedding_moments":
        grads = normal(samples, 5, width)
        indices = (torch.arange(samples * 5) ** 2 % 7).view(samples, 5)
        read = {"indices": indices, "grad_outputs": grads}
        positional = (indices, grads, 9, 3, *ASKED.values())
        keywords = {"padding_idx": 3, **ASKED}
        return (
            ops.embedding_moments, (indices, grads, 9), keywords, {}, read,
            registered.embedding_moments.default, positional,
        )  # fmt: skip
    if name.endswith("of groups"):
        inputs, grads = normal(samples, width, 5).mT, normal(samples, width, 5).mT
        shape = (samples, 1, 3)
    else:
        inputs, grads = normal(samples, 5, width), normal(samples, 5, width)
        shape = (samples, 5, 1)
    kind = torch.float64 if inputs.dtype == torch.float64 else torch.float32
    mean = torch.linspace(-1, 1, shape[0] * shape[1] * shape[2], dtype=kind).view(shape)
    rstd = mean.square() + 0.5
    read = {"inputs": inputs, "grad_outputs": grads, "mean": mean, "rstd": rstd}
    tensors = (inputs, grads, mean, rstd)
    return (
        ops.norm_layer_moments, tensors, {"bias": True, **ASKED}, {}, read,
        registered.norm_layer_moments.default, (*tensors, True, *ASKED.values()),
    )  # fmt: skip
