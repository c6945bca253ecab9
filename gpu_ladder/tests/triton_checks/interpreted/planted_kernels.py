"""Kernels with a fault each, and what is right."""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def double(source, target, size, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source + place, mask=place < size, other=0.0)
    tl.store(target + place, 2 * values, mask=place < size)


@triton.jit
def store_without_mask(source, target, size, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(source + place, mask=place < size, other=0.0)
    tl.store(target + place, 2 * values)  # fault


@triton.jit
def read(source, place):
    return tl.load(source + place)  # fault


@triton.jit
def load_without_mask(source, target, size, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + place, 2 * read(source, place), mask=place < size)


@triton.jit
def copy_rows(source, target, stride, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    values = tl.load(source + row[:, None] * stride + column[None, :], mask=mask)  # stride
    tl.store(target + row[:, None] * columns + column[None, :], values, mask=mask)


@triton.jit
def count(total):
    tl.store(total, tl.load(total) + 1)  # fault


@triton.jit
def count_atomically(total):
    tl.atomic_add(total, 1.0)


@triton.jit
def write_own_number(target):
    tl.store(target, tl.program_id(0))  # fault


@triton.jit
def write_the_same(target):
    tl.store(target, 7)


@triton.jit
def read_what_the_next_writes(target, size):
    mine = tl.program_id(0)
    after = tl.load(target + (mine + 1) % size)  # fault
    tl.store(target + mine, after)  # fault


@triton.jit
def spread(source, target, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(target + place, tl.load(source))


@triton.jit
def round_to(source, target, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    tl.store(target + place, tl.load(source + place).to(target.dtype.element_ty))
