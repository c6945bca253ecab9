"""Lists of tensors, many to a launch.

A launch takes the addresses of up to `SLOTS` tensors among its arguments: they are part of a
captured CUDA graph, and nothing is copied to the device. 300 tensors are ten launches. Each program
finds its tensor by counting programs.

Triton compiles anew for every combination of facts about arguments: which addresses are multiples
of 16 bytes, which integers are multiples of 16, or 1. Tensors that share a launch are therefore
chosen to be alike, and sizes are passed as odd numbers from 3 on, of which there are no facts.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

import triton
import triton.language as tl
from torch import Tensor

#: Tensors of a launch. A single one has a kernel of its own, without the search.
SLOTS = 32
#: Sizes that would not fit into 32 bits once coded; such tensors are launched alone.
LARGE = 2**30 - 2

_Item = TypeVar("_Item")


def code(size: int) -> int:
    """A size as kernels take it."""
    return 2 * size + 3


@triton.jit
def decode(coded):
    """The size again."""
    return (coded - 3) >> 1


@triton.jit
def pick(tensors, slot):
    """The tensor of a slot."""
    picked = tensors[0]
    for index in tl.static_range(1, len(tensors)):
        if slot == index:
            picked = tensors[index]
    return picked


@triton.jit
def find_block(program, sizes, ELEMENTS: tl.constexpr):
    """A program's slot, its block of ELEMENTS elements there, and the size of the tensor."""
    slot = 0
    block = program
    size = decode(sizes[0])
    first = tl.cdiv(size, ELEMENTS)
    for index in tl.static_range(1, len(sizes)):
        candidate = decode(sizes[index])
        if program >= first:
            slot = index
            block = program - first
            size = candidate
        first += tl.cdiv(candidate, ELEMENTS)
    return slot, block, size


@triton.jit
def find_tile(
    program, heights, widths, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STRIPED: tl.constexpr
):
    """A program's slot, its tile there, the tensor's rows and columns, and what lies before it.

    That is the shares, one for each row and strip of COLUMNS columns, and the rows of all tensors
    in the slots before. A tensor has a tile for ROWS rows of every strip, or just for ROWS rows.
    """
    slot = 0
    tile = program
    rows = decode(heights[0])
    columns = decode(widths[0])
    share = tl.full([], 0, tl.int64)
    top = tl.full([], 0, tl.int64)
    strips = tl.cdiv(columns, COLUMNS)
    shares = strips * rows.to(tl.int64)
    above = rows.to(tl.int64)
    first = tl.cdiv(rows, ROWS) * strips if STRIPED else tl.cdiv(rows, ROWS)
    for index in tl.static_range(1, len(heights)):
        height = decode(heights[index])
        width = decode(widths[index])
        if program >= first:
            slot = index
            tile = program - first
            rows = height
            columns = width
            share = shares
            top = above
        strips = tl.cdiv(width, COLUMNS)
        shares += strips * height.to(tl.int64)
        above += height
        first += tl.cdiv(height, ROWS) * strips if STRIPED else tl.cdiv(height, ROWS)
    return slot, tile, rows, columns, share, top


def aligned(*tensors: Tensor) -> tuple[bool, ...]:
    """Which addresses are multiples of 16 bytes."""
    return tuple(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def batches(
    items: Iterable[_Item], kind: Callable[[_Item], Hashable], size: Callable[[_Item], int]
) -> list[list[_Item]]:
    """Items of one kind together, at most `SLOTS`, in their order; large ones alone."""
    open_batches: dict[Hashable, list[_Item]] = {}
    result: list[list[_Item]] = []
    for item in items:
        if size(item) >= LARGE:
            result.append([item])
            continue
        batch = open_batches.get(kind(item))
        if batch is None or len(batch) == SLOTS:
            batch = open_batches[kind(item)] = []
            result.append(batch)
        batch.append(item)
    return result


def padded(values: Iterable[_Item], filler: _Item | None = None) -> tuple[_Item, ...]:
    """As many values as a launch has slots, one or `SLOTS`; the first stands in for the rest.

    Sizes are filled up with that of an empty tensor instead, so that no program looks there.
    """
    given = tuple(values)
    if len(given) == 1:
        return given
    return given + (given[0] if filler is None else filler,) * (SLOTS - len(given))
