"""Triton kernels whose PTX the machine executes."""

# ruff: noqa: N803 - Triton writes compile-time constants in capitals

from __future__ import annotations

import functools
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpu_ladder.ptx import Module


@triton.jit
def softmax_rows(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < columns
    x = tl.load(x_ptr + row * columns + offsets, mask=inside, other=float("-inf")).to(tl.float32)
    powers = tl.exp(x - tl.max(x, axis=0))
    tl.store(y_ptr + row * columns + offsets, powers / tl.sum(powers, axis=0), mask=inside)


@triton.jit
def transpose_tile(x_ptr, y_ptr, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    x = tl.load(x_ptr + i[:, None] * SIZE + i[None, :])
    tl.store(y_ptr + i[:, None] * SIZE + i[None, :], tl.trans(x))


@triton.jit
def product(a_ptr, b_ptr, c_ptr, SIZE: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, SIZE)
    at = i[:, None] * SIZE + i[None, :]
    c = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at), input_precision=PRECISION)
    tl.store(c_ptr + at, c)


@triton.jit
def add_up(x_ptr, total_ptr, count, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offsets, mask=offsets < count, other=0.0).to(tl.float32)
    tl.atomic_add(total_ptr, tl.sum(x, axis=0))


@triton.jit
def unmasked(x_ptr, y_ptr, count, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + offsets, tl.load(x_ptr + offsets, mask=offsets < count) + 1.0)


@functools.cache
def translated(
    name: str,
    architecture: int,
    signature: tuple[tuple[str, str], ...],
    constants: tuple[tuple[str, Any], ...],
    aligned: tuple[int, ...],
) -> tuple[Any, int, int]:
    """A kernel's machine form, its shared memory and its threads."""
    kernel = triton.compile(
        ASTSource(
            fn=globals()[name],
            signature={**dict(signature), **{key: "constexpr" for key, _ in constants}},
            constexprs=dict(constants),
            attrs={(index,): [["tt.divisibility", 16]] for index in aligned},
        ),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": 4},
    )
    loaded = Module(kernel.asm["ptx"]).kernels[name]
    return loaded, kernel.metadata.shared, 32 * kernel.metadata.num_warps
