"""Parameters that several uses share: their contributions are added before they are squared.

Embeddings and linear layers with one weight, such as a language model's head, have a short way:
the norm of a sum of two follows from the norm of each and their inner product, which takes the
Gram products of positions (a ghost inner product). Otherwise contributions are built in chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from adadagrad_kernels.checks import ACCUMULATION_DTYPES
from adadagrad_kernels.memory import is_out_of_memory
from adadagrad_kernels.ops import accumulate_moments_
from adadagrad_kernels.statistics.measuring.uses import Part, Use
from adadagrad_kernels.statistics.sums import row_dots

#: Bytes of contributions at a time.
_CHUNK_BYTES = 32 * 2**20

Key = tuple[int, int]


@dataclass
class Measured:
    """What the samples contributed to the parts of some uses.

    Attributes:
        sq_norms: over all parts, ``[samples]``.
        sums: of the contributions to each part.
        variances: of the contributions, where wanted.
        dots_with_sum: <h_i, sum_j h_j>, where wanted.
    """

    sq_norms: Tensor
    sums: dict[Key, Tensor] = field(default_factory=dict)
    variances: dict[Key, Tensor] = field(default_factory=dict)
    dots_with_sum: Tensor | None = None


def groups(uses: Iterable[Use]) -> list[list[Use]]:
    """Uses that share parts, in the order in which they came."""
    found: list[tuple[set[Key], list[Use]]] = []
    for use in uses:
        keys = {part.key for part in use.parts}
        met = [each for each in found if each[0] & keys]
        merged = set(keys).union(*(each[0] for each in met))
        together = [member for each in met for member in each[1]] + [use]
        found = [each for each in found if each not in met] + [(merged, together)]
    return [members for _, members in found]


def measure(uses: Sequence[Use], variance: bool, inner_products: bool) -> Measured:
    """Measure uses that share parts, in the types of what they saved, whatever autocast says."""
    kind = uses[0].parts[0].value.device.type
    with torch.autocast(kind, enabled=False):
        if not variance:
            short = _by_pairs(uses, inner_products)
            if short is not None:
                return short
        return _by_contributions(uses, variance, inner_products)


def _by_pairs(uses: Sequence[Use], inner_products: bool) -> Measured | None:
    """The short way: every use has only one part, and every two a way to their inner product."""
    keys = {part.key for use in uses for part in use.parts}
    alone = [use.own_moments for use in uses]
    if len(keys) != 1 or any(own is None for own in alone):
        return None
    crossed = []
    for one, other in combinations(uses, 2):
        cross = one.cross_dots(other)
        if cross is None:
            cross = other.cross_dots(one)
        if cross is None:
            return None
        crossed.append(cross)
    norms = torch.stack([own[1] for own in alone if own is not None]).sum(0)
    total = torch.stack([own[0] for own in alone if own is not None]).sum(0)
    measured = Measured(norms + 2 * torch.stack(crossed).sum(0) if crossed else norms)
    measured.sq_norms.clamp_(min=0)
    measured.sums[next(iter(keys))] = total
    if inner_products:
        along = [use.dots_with(total) for use in uses]
        if any(product is None for product in along):
            return None
        measured.dots_with_sum = torch.stack([p for p in along if p is not None]).sum(0)
    return measured


def _by_contributions(uses: Sequence[Use], variance: bool, inner_products: bool) -> Measured:
    parts = {part.key: part for use in uses for part in use.parts}
    first = next(iter(parts.values())).value
    samples = uses[0].samples
    measured = Measured(torch.zeros(samples, dtype=torch.float64, device=first.device))
    norms = torch.empty_like(measured.sq_norms)
    squares = {}
    for key, part in parts.items():
        dtype = ACCUMULATION_DTYPES[part.value.dtype]
        measured.sums[key] = torch.empty(part.value.numel(), dtype=dtype, device=first.device)
        if variance:
            squares[key] = torch.empty_like(measured.sums[key])
    for rows, contributions in chunks(uses, parts, samples):
        for key, chunk in contributions.items():
            state = (measured.sums[key], squares.get(key), norms[rows])
            accumulate_moments_(*state, chunk, samples=rows.start)
            measured.sq_norms[rows] += norms[rows]
    if inner_products:
        measured.dots_with_sum = torch.zeros_like(measured.sq_norms)
        for rows, contributions in chunks(uses, parts, samples):
            for key, chunk in contributions.items():
                measured.dots_with_sum[rows] += row_dots(chunk, measured.sums[key])
    for key, part in parts.items():
        measured.sums[key] = measured.sums[key].view(part.value.shape)
        if variance:
            part_variance = squares[key].div_(max(samples - 1, 1)).view(part.value.shape)
            measured.variances[key] = part_variance
    return measured


def chunks(
    uses: Sequence[Use], parts: dict[Key, Part], samples: int
) -> Iterable[tuple[slice, dict[Key, Tensor]]]:
    """Contributions ``[samples, elements]`` of some samples at a time, those of all uses added."""
    bytes_per_sample = sum(part.value.numel() * 4 for part in parts.values())
    size = max(1, _CHUNK_BYTES // max(1, bytes_per_sample))
    start = 0
    while start < samples:
        rows = slice(start, min(start + size, samples))
        total: dict[Key, Tensor] = {}
        try:
            for use in uses:
                use.add_contributions(rows, total)
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size //= 2
            continue
        yield rows, {k: chunk.reshape(len(chunk), -1).contiguous() for k, chunk in total.items()}
        start = rows.stop
