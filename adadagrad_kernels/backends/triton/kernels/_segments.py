"""Runs of equal keys: where each begins. How many there are, only the device knows."""

from __future__ import annotations

import torch
from torch import Tensor


def numbered(keys: Tensor) -> Tensor:
    """The run of every element of sorted keys, from 0 on, int64 ``[elements]``."""
    first = torch.ones_like(keys, dtype=torch.bool)
    first[1:] = keys[1:] != keys[:-1]
    return first.cumsum(0) - 1


def starts(run: Tensor) -> Tensor:
    """Where each run begins, ``[elements + 1]``: as many as there can be, empty ones at the end."""
    places = torch.arange(len(run) + 1, device=run.device)
    return torch.searchsorted(run, places)
