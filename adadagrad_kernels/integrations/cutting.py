"""Parts of a batch of any structure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def part_of(batch: Any, share: int, part: slice) -> Any:
    """Some samples of a batch.

    Tensors whose first dimension is that of the samples, and lists of as many strings or numbers,
    are cut; everything else is in every part as it is.

    Args:
        batch: a tensor, or mappings, named tuples, tuples and lists of tensors, of any depth.
        share: its samples.
        part: of them.

    Raises:
        ValueError: if nothing in it has ``share`` samples.
    """
    cut, found = _cut(batch, share, part)
    if not found:
        raise ValueError(
            f"nothing in the batch, a {type(batch).__name__}, has {share} samples in its first "
            "dimension, so it cannot be cut. Ways out: a collate_fn that gives tensors "
            "[samples, ...]; cut it yourself"
        )
    return cut


def _cut(value: Any, share: int, part: slice) -> tuple[Any, bool]:
    if isinstance(value, Tensor):
        own = value.dim() > 0 and len(value) == share
        return (value[part] if own else value), own
    if isinstance(value, Mapping):
        cut = {key: _cut(each, share, part) for key, each in value.items()}
        return _like(value, {k: v for k, (v, _) in cut.items()}), any(f for _, f in cut.values())
    if isinstance(value, list | tuple):
        if len(value) == share and all(isinstance(v, str | bytes | int | float) for v in value):
            return value[part], True
        each = [_cut(v, share, part) for v in value]
        return _like(value, [v for v, _ in each]), any(found for _, found in each)
    return value, False


def _like(value: Any, parts: Any) -> Any:
    """Parts in the class that they came in."""
    if hasattr(value, "_fields"):
        return type(value)(*parts)
    try:
        return type(value)(parts)
    except TypeError:
        return parts
