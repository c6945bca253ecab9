"""Sharded parameters: finds the process groups whose parts add up to the whole."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor

#: Process groups over which sums of a parameter's parts add up; empty for a whole parameter.
Shards = tuple[Any, ...]


def shards_of(param: Tensor) -> Shards:
    """The groups of a DTensor's mesh over which it is sharded.

    Raises:
        ValueError: for a DTensor with partial placements, whose values are still to be added up.
    """
    placements = getattr(param, "placements", ())
    if any(placement.is_partial() for placement in placements):
        raise ValueError(
            f"a parameter of shape {tuple(param.shape)} has the placements {placements}; accepted "
            "are Shard and Replicate: redistribute() it to one of them first"
        )
    mesh: Any = getattr(param, "device_mesh", None)
    cut = [place for place, placement in enumerate(placements) if placement.is_shard()]
    return tuple(mesh.get_group(place) for place in cut if mesh.size(place) > 1)


def whole_sum(part: Tensor, shards: Shards) -> Tensor:
    """The sum over all parts, bit for bit the same on every process; a new tensor if sharded."""
    if not shards:
        return part
    total = part.clone()
    for group in shards:
        dist.all_reduce(total, group=group)
    return total
