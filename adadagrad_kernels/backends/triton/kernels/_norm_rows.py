"""Kernels of AdaGrad-Norm with one accumulator for each row of each tensor.

A program has a tile of ROWS rows and COLUMNS columns. Rows may be longer than a tile, so there are
two sweeps here as well: shares of the rows' sums of squares, 4 or 8 bytes read per element in
float32, and the update, 12 bytes read and written.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import triton
import triton.language as tl

from adadagrad_kernels.backends.triton.kernels._lists import find_tile, pick
from adadagrad_kernels.backends.triton.kernels._update import (
    allowed,
    descent,
    load,
    scalar,
    store,
    unscaled,
)


@triton.jit
def tile_offsets(tile, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                 VECTOR: tl.constexpr):  # fmt: skip
    """Rows and strip of a tile; offsets and mask of its elements.

    Tiles of the same columns lie one after the other. VECTOR adjacent elements are all inside or
    all outside, and begin at a multiple of 16 bytes.
    """
    blocks = tl.cdiv(rows, ROWS)
    strip = tile // blocks
    row = (tile - strip * blocks) * ROWS + tl.arange(0, ROWS)
    column = strip * COLUMNS + tl.arange(0, COLUMNS)
    start = tl.multiple_of(row.to(tl.int64) * columns, [VECTOR])
    inside = tl.max_constancy(column < columns, [VECTOR])
    mask = (row < rows)[:, None] & inside[None, :]
    return row, strip, start[:, None] + column[None, :], mask


@triton.jit(do_not_specialize=["moves", "first_share", "grad_scale"])
def row_squares_kernel(
    weights,  # tuples of tensors, one of each for every slot
    grads,
    heights,  # numbers of rows, coded
    widths,  # numbers of columns, coded
    norms,  # shares of the gradients' squares: [strips, rows] of one tensor after the other
    moves,  # the same of the directions', or None without weight decay
    first_share,
    weight_decay,
    grad_scale,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    SCALE_IN_MEMORY: tl.constexpr,
):
    """Shares of a tile of one tensor."""
    slot, tile, rows, columns, share, _ = find_tile(
        tl.program_id(0), heights, widths, ROWS, COLUMNS, True
    )
    param = pick(weights, slot)
    grad = pick(grads, slot)
    row, strip, offsets, mask = tile_offsets(tile, rows, columns, ROWS, COLUMNS, VECTOR)
    gradient = unscaled(load(grad + offsets, mask), grad_scale, SCALE_IN_MEMORY)
    place = first_share + share + strip.to(tl.int64) * rows + row
    tl.store(norms + place, tl.sum(gradient * gradient, axis=1), mask=row < rows)
    if moves is not None:
        direction = descent(load(param + offsets, mask), gradient, weight_decay, MAXIMIZE)
        tl.store(moves + place, tl.sum(direction * direction, axis=1), mask=row < rows)


@triton.jit(do_not_specialize=["moves", "first_share", "first_row", "lr", "found_inf"])
def row_accumulate_kernel(
    accumulators,  # a tuple of float64 tensors, one for every slot
    heights,  # numbers of rows, coded
    widths,  # numbers of columns, coded
    norms,  # shares, as above
    moves,
    totals,  # the squared norm of every row's gradient, float64
    steps,  # what every row's direction is multiplied by, float32
    first_share,
    first_row,
    lr,
    eps,
    found_inf,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LR_IN_MEMORY: tl.constexpr,
):
    """A program has ROWS rows of one tensor: v += |d|², step = lr / (√v + eps), in float64."""
    slot, block, rows, columns, share, top = find_tile(
        tl.program_id(0), heights, widths, ROWS, COLUMNS, False
    )
    accumulator = pick(accumulators, slot)
    row = block * ROWS + tl.arange(0, ROWS)
    mask = row < rows
    norm = tl.zeros([ROWS], tl.float64)
    moved = tl.zeros([ROWS], tl.float64)
    for strip in range(tl.cdiv(columns, COLUMNS)):
        place = first_share + share + rows.to(tl.int64) * strip + row
        norm += tl.load(norms + place, mask=mask, other=0.0).to(tl.float64)
        if moves is not None:
            moved += tl.load(moves + place, mask=mask, other=0.0).to(tl.float64)
    total = tl.load(accumulator + row, mask=mask, other=0.0)
    if moves is not None:
        total += moved
    else:
        total += norm
    if allowed(found_inf):
        tl.store(accumulator + row, total, mask=mask)
    rate = scalar(lr, LR_IN_MEMORY).to(tl.float64)
    step = rate / (tl.sqrt(total) + scalar(eps, False).to(tl.float64))
    place = first_row + top + row
    tl.store(totals + place, norm, mask=mask)
    tl.store(steps + place, step.to(tl.float32), mask=mask)


@triton.jit(do_not_specialize=["first_row", "grad_scale", "found_inf"])
def row_move_kernel(
    weights,  # tuples of tensors, one of each for every slot
    grads,
    heights,  # numbers of rows, coded
    widths,  # numbers of columns, coded
    steps,  # one for every row, float32
    first_row,
    weight_decay,
    grad_scale,
    found_inf,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    SCALE_IN_MEMORY: tl.constexpr,
):
    """W -= step · d for a tile of one tensor."""
    slot, tile, rows, columns, _, top = find_tile(
        tl.program_id(0), heights, widths, ROWS, COLUMNS, True
    )
    param = pick(weights, slot)
    grad = pick(grads, slot)
    row, _, offsets, mask = tile_offsets(tile, rows, columns, ROWS, COLUMNS, VECTOR)
    step = tl.load(steps + first_row + top + row, mask=row < rows, other=0.0)
    gradient = unscaled(load(grad + offsets, mask), grad_scale, SCALE_IN_MEMORY)
    value = load(param + offsets, mask)
    direction = descent(value, gradient, weight_decay, MAXIMIZE)
    if allowed(found_inf):
        store(param + offsets, value - step[:, None] * direction, mask)
