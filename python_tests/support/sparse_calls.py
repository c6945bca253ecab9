"""The calls of the step along sparse gradients, for calls.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adadagrad_kernels import ops
from support.tolerances import accumulation_dtype

#: Rows with zeros, and stored entries with AdaGrad, ridge and offset.
SPARSE_CALLS = ("sparse_mean_step_", "sparse_mean_step_ of entries")


def sparse_arguments(
    name: str,
    normal: Callable[..., Tensor],
    positive: Callable[..., Tensor],
    place: Callable[[Tensor], Tensor],
    samples: int,
    features: int,
) -> tuple[Any, ...]:
    """The fields of a Call; about a third of the elements are not zero."""
    param, dense = normal(features), normal(samples, features)
    dense[dense < 0.4] = 0
    settings: dict[str, Any] = {"lr": 0.1, "mode": "adabatch", "ridge": 0.0}
    read: dict[str, Any] = {"per_sample_grads": dense}
    written = {"param": param}
    rows: Any = dense
    parts = (None, None, dense)
    options: dict[str, Any] = {"probabilities": None, "offset": None, "state_sum": None}
    if name.endswith("entries"):
        sums = accumulation_dtype(param.dtype)
        parts = tuple(place(part) for part in compressed(dense))
        rows = ops.CsrRows(*parts)
        settings["ridge"] = 0.01
        options = {
            "probabilities": positive(features, kind=sums).mul_(0.9),
            "offset": place(normal(features).to(sums)),
            "state_sum": positive(features),
        }
        written["state_sum"] = options["state_sum"]
        read = {"rows": list(parts), **{n: options[n] for n in ("probabilities", "offset")}}
    keywords = {**settings, **options, "eps": 1e-10}
    positional = (param, *parts, *keywords.values())
    return (
        ops.sparse_mean_step_, (param, rows), keywords, written, read,
        torch.ops.adadagrad_kernels.sparse_mean_step_.default, positional,
    )  # fmt: skip


def compressed(dense: Tensor, kind: torch.dtype = torch.int64) -> tuple[Tensor, Tensor, Tensor]:
    """Row starts, columns and values of what is not zero."""
    stored = dense != 0
    starts = torch.zeros(len(dense) + 1, dtype=kind)
    starts[1:] = stored.sum(1).cumsum(0)
    return starts, stored.nonzero()[:, 1].to(kind), dense[stored]
