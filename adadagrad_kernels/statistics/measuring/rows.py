"""What the rows of a layer's inputs are, told from how they change with the batch."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from adadagrad_kernels.statistics.measuring.trial import Call


class Rows(Enum):
    """What the rows of a layer's input are."""

    SAMPLES = "samples"
    SHARED = "shared by all samples"
    ELSEWHERE = "samples, but not one for each"
    ROUTED = "as many as the inputs decide"
    UNKNOWN = "unknown"


def rows_in(
    calls: list[list[Call]], count: int, fewer: int, *, exchanged: bool
) -> tuple[tuple[Rows, ...], tuple[tuple[bool, ...], ...]]:
    """What the rows of a layer are in each of its calls, and which tensors have samples."""
    if len({len(each) for each in calls}) != 1:
        sizes = (count, count, fewer)
        apart = all(
            call.rows[:1] == (size,)
            for each, size in zip(calls, sizes, strict=False)
            for call in each
        )
        return (Rows.SAMPLES if apart else Rows.ROUTED,), ()
    kinds: list[Rows] = []
    flags: list[tuple[bool, ...]] = []
    for together in zip(*calls, strict=True):
        if len({len(call.rows) for call in together}) != 1 or not together[0].rows:
            kinds.append(Rows.UNKNOWN)
            flags.append(())
            continue
        each = [
            _rows_of(
                [c.rows[i] for c in together],
                [c.inputs[i] for c in together],
                count,
                fewer,
                exchanged=exchanged,
            )
            for i in range(len(together[0].rows))
        ]
        kinds.append(each[0])
        flags.append(tuple(kind is Rows.SAMPLES for kind in each))
    return tuple(kinds), tuple(flags)


def _rows_of(
    rows: list[int], inputs: list[Tensor], count: int, fewer: int, *, exchanged: bool
) -> Rows:
    one, two = inputs[:2]
    changed = one.shape != two.shape or not torch.equal(one, two)
    resized = len(rows) > 2
    if rows[0] == rows[1] == count and (not resized or rows[2] == fewer):
        # In a run of all samples a table of as many positions looks alike but does not change.
        return Rows.SHARED if not resized and exchanged and not changed else Rows.SAMPLES
    if len(set(rows)) == 1:
        return Rows.ELSEWHERE if changed else Rows.SHARED
    merged = rows[0] == rows[1] and rows[0] % count == 0
    if merged and resized and rows[0] // count * fewer == rows[2]:
        return Rows.UNKNOWN
    return Rows.ROUTED
