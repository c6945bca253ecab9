"""The calls of layers that multiply, for calls.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import ops

#: One position, few and many; the norms alone, which may take another form.
PRODUCT_CALLS = (
    "linear_moments",
    "linear_moments of norms",
    "linear_moments of rows",
    "conv_moments",
)


def product_arguments(
    name: str, normal: Callable[..., Tensor], samples: int, features: int
) -> tuple[Any, ...]:
    """The fields of a Call on tensors made by ``normal``; of about ``features`` elements each."""
    registered = torch.ops.adadagrad_kernels
    asked = {"variance": " of norms" not in name, "inner_products": " of norms" not in name}
    if name == "conv_moments":
        width = max(5, min(features, 50))
        inputs, grads = normal(samples, 2, 4, width), normal(samples, 3, 4, (width - 1) // 2)
        read = {"inputs": inputs, "grad_outputs": grads}
        settings = {"stride": (1, 2), "padding": (1, 0), "dilation": (1, 1), "groups": 1}
        keywords = {**settings, "bias": True, **asked}
        positional = (inputs, grads, [3, 3], [1, 2], [1, 0], [1, 1], 1, True, *asked.values())
        return (
            ops.conv_moments, (inputs, grads, (3, 3)), keywords, {}, read,
            registered.conv_moments.default, positional,
        )  # fmt: skip
    positions = () if "of rows" in name else (3,) if "of norms" in name else (17,)
    inputs = normal(samples, *positions, min(features, 300))
    grads = normal(samples, *positions, 33)
    read = {"inputs": inputs, "grad_outputs": grads}
    positional = (inputs, grads, True, *asked.values())
    return (
        ops.linear_moments, (inputs, grads), {"bias": True, **asked}, {}, read,
        registered.linear_moments.default, positional,
    )  # fmt: skip
