"""Sums over gradients in float64, for any type of gradient, without a float64 copy.

Blocks are converted one at a time, small enough to stay in cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.ops.batch_moments import batch_moments
from adadagrad_kernels.shards import is_sharded

_BLOCK_ELEMENTS = 2**18
#: Elements above which calling a kernel pays, and the rows in which it takes them.
_LONG = 2**16
_ROWS = 64


def squared_norm(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of all squared elements, as a 0-dim float64 tensor on the tensors' device.

    Sparse gradients are coalesced first, so elements of one index add up before the square.

    Raises:
        UnsupportedModelError: for sharded tensors, whose other parts are not here.
    """
    total: Tensor | None = None
    for tensor in tensors:
        if is_sharded(tensor):
            raise UnsupportedModelError(
                f"a gradient of shape {tuple(tensor.shape)} is sharded (a DTensor), and its norm "
                "is not known to one rank. Way out: take it from the record of layer_statistics, "
                "whose numbers are those of all ranks; its gradients do not merge"
            )
        values = tensor.detach()
        if values.is_sparse:
            values = values.coalesce().values()
        # Made on the device: a zero of the host would have to be copied there, and waited for.
        if total is None:
            total = torch.zeros((), dtype=torch.float64, device=values.device)
        total = total.to(values.device)
        values = values.reshape(-1)
        # What is long is read once, by the kernel that sums the rows of a matrix.
        whole = len(values) // _ROWS * _ROWS if len(values) >= _LONG else 0
        if whole:
            rows = values[:whole].view(_ROWS, -1)
            moments = batch_moments(rows, variance=False, inner_products=False)
            total = total + moments.sq_norms.sum()
        for block in torch.split(values[whole:], _BLOCK_ELEMENTS):
            wide = block.double()
            total = total + torch.dot(wide, wide)
    return torch.zeros((), dtype=torch.float64, device="cpu") if total is None else total


def row_dots(rows: Tensor, vector: Tensor) -> Tensor:
    """<row, vector> of every row of ``[samples, features]``, as float64 ``[samples]``."""
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    width = max(1, _BLOCK_ELEMENTS // len(rows))
    for block, part in zip(torch.split(rows, width, 1), torch.split(vector, width), strict=True):
        total.addmv_(block.double(), part.double())
    return total


def cosine_of_parts(whole: float, first: float, second: float) -> float:
    """cos(x, y) from |x + y|², |x|² and |y|²; NaN where x or y is zero."""
    lengths = math.sqrt(first) * math.sqrt(second)
    if not 0.0 < lengths < math.inf:
        return math.nan
    return min(1.0, max(-1.0, (whole - first - second) / (2 * lengths)))


def on_host(tensors: Sequence[Tensor]) -> list[list[float]]:
    """The elements of each, in float64; waits for each device once."""
    by_device: dict[torch.device, list[int]] = {}
    for place, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(place)
    found: list[list[float]] = [[] for _ in tensors]
    for places in by_device.values():
        flat = [tensors[place].detach().reshape(-1).double() for place in places]
        values = iter(torch.cat(flat).tolist())
        for place, tensor in zip(places, flat, strict=True):
            found[place] = list(islice(values, len(tensor)))
    return found
