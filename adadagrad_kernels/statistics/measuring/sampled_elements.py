"""A few elements of each of many tensors, by which a change of a whole one is noticed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from adadagrad_kernels.shards import local

#: Elements taken of each: what changes a tensor usually changes all of it.
_FEW = 16

Kind = tuple[torch.device, torch.dtype]


@torch.no_grad()
def sampled_elements(tensors: Iterable[Tensor]) -> dict[Kind, Tensor]:
    """Some elements of each, evenly apart, ``[tensors, elements]`` of every kind."""
    found = defaultdict(list)
    for tensor in map(local, tensors):
        values = tensor._values() if tensor.is_sparse else tensor
        if not values.is_contiguous():
            values = values.reshape(-1)
        count = values.numel()
        step = (count - 1) // (_FEW - 1)
        step -= step > 1 and step % 2 == 0  # so that not all are of one column
        if count < _FEW:
            values, step = torch.nn.functional.pad(values.view(-1), (0, _FEW - count)), 1
        found[kind_of(tensor)].append(values.as_strided((_FEW,), (step,)))
    return {kind: torch.stack(few) for kind, few in found.items()}


def kind_of(tensor: Tensor) -> Kind:
    """Device and dtype."""
    return (tensor.device, tensor.dtype)
