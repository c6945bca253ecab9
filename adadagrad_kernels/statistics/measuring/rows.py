"""What the rows of a layer's inputs are, judged by how they change with the batch."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from adadagrad_kernels.statistics.measuring.mixing import close
from adadagrad_kernels.statistics.measuring.trial import Call


class Rows(Enum):
    """What the rows of a layer's input are."""

    SAMPLES = "samples"
    MERGED = "some for each sample, those of one after those of another"
    SECOND = "positions, with the samples in the second dimension"
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
        have_samples = all(
            call.shapes[0][:1] == (size,)
            for each, size in zip(calls, sizes, strict=False)
            for call in each
        )
        return (Rows.SAMPLES if have_samples else Rows.ROUTED,), ()
    kinds: list[Rows] = []
    flags: list[tuple[bool, ...]] = []
    for together in zip(*calls, strict=True):
        if len({len(call.shapes) for call in together}) != 1 or not together[0].shapes:
            kinds.append(Rows.UNKNOWN)
            flags.append(())
            continue
        each = [
            _rows_of(
                [call.shapes[i] for call in together],
                [call.inputs[i] for call in together],
                (count, count, fewer)[: len(together)],
                exchanged=exchanged,
            )
            for i in range(len(together[0].shapes))
        ]
        kinds.append(each[0])
        flags.append(tuple(kind is Rows.SAMPLES for kind in each))
    return tuple(kinds), tuple(flags)


def _rows_of(
    shapes: list[torch.Size], inputs: list[Tensor], counts: tuple[int, ...], *, exchanged: bool
) -> Rows:
    rows = tuple(shape[0] if shape else 0 for shape in shapes)
    columns = tuple(shape[1] if len(shape) > 1 else 0 for shape in shapes)
    one, two = inputs[:2]
    same = one.shape == two.shape
    changed = not same or not torch.equal(one, two)
    if len(counts) < 3 and exchanged and same:
        return _rows_of_all(one, two, counts[0], changed=changed)
    if rows == counts:
        if changed and exchanged and not (same and close(one[1:], two[1:])):
            return Rows.ELSEWHERE  # mixed
        # As many in batches of either size. Samples may share a category, so that none has changed;
        # rows that are as many by chance show in the gradient of one sample (``comparison``).
        return Rows.SAMPLES
    if len(set(rows)) == 1:
        if not changed:
            return Rows.SHARED
        second = columns == counts and one.dim() > 1 and close(one[:, 1:], two[:, 1:])
        return Rows.SECOND if second else Rows.ELSEWHERE
    each = rows[0] // counts[0]
    if rows != tuple(each * count for count in counts):
        return Rows.ROUTED
    merged = not exchanged or (same and close(one[each:], two[each:]))
    return Rows.MERGED if merged else Rows.UNKNOWN


def _rows_of_all(one: Tensor, two: Tensor, count: int, *, changed: bool) -> Rows:
    """Where a batch has no other size: of what changed with its first sample."""
    if not changed:
        alike = one.shape[:1] == (count,) and close(one[:-1], one[1:])
        return Rows.SAMPLES if alike else Rows.SHARED
    if one.shape[:1] == (count,) and close(one[1:], two[1:]):
        return Rows.SAMPLES
    if one.shape[1:2] == (count,) and close(one[:, 1:], two[:, 1:]):
        return Rows.SECOND
    return Rows.ELSEWHERE if one.shape[:1] != (count,) else Rows.SAMPLES
