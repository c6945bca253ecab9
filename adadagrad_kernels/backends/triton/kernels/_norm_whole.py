"""Kernels of AdaGrad-Norm with one accumulator for all tensors.

The norm of everything is needed before the first parameter moves, so there are two sweeps: shares
of the sums of squares, 4 bytes read per element in float32 (8 with weight decay, which needs the
parameters too), and the update, 12 bytes read and written.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import triton
import triton.language as tl

from adadagrad_kernels.backends.triton.kernels._lists import find_block, pick
from adadagrad_kernels.backends.triton.kernels._update import (
    allowed,
    descent,
    load,
    scalar,
    store,
    unscaled,
)


@triton.jit
def squares_of_block(
    param, grad, offsets, mask, weight_decay, grad_scale,
    MAXIMIZE: tl.constexpr, SCALE_IN_MEMORY: tl.constexpr,
):  # fmt: skip
    """Sums of squares of a block's gradient and of its direction."""
    gradient = unscaled(load(grad + offsets, mask), grad_scale, SCALE_IN_MEMORY)
    norm = tl.sum(gradient * gradient, axis=0)
    moved = norm
    if weight_decay is not None:
        direction = descent(load(param + offsets, mask), gradient, weight_decay, MAXIMIZE)
        moved = tl.sum(direction * direction, axis=0)
    return norm, moved


@triton.jit
def move_block(
    param, grad, offsets, mask, step, allow, weight_decay, grad_scale,
    MAXIMIZE: tl.constexpr, SCALE_IN_MEMORY: tl.constexpr,
):  # fmt: skip
    """The block's parameters, a step further."""
    gradient = unscaled(load(grad + offsets, mask), grad_scale, SCALE_IN_MEMORY)
    value = load(param + offsets, mask)
    direction = descent(value, gradient, weight_decay, MAXIMIZE)
    if allow:
        store(param + offsets, value - step * direction, mask)


@triton.jit(do_not_specialize=["moves", "first_share", "grad_scale"])
def squares_kernel(
    weights,  # tuples of tensors, one of each for every slot
    grads,
    sizes,  # coded
    norms,  # shares of the gradient's squares, one for every program
    moves,  # the same of the direction's, or None without weight decay
    first_share,
    weight_decay,
    grad_scale,
    ELEMENTS: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    SCALE_IN_MEMORY: tl.constexpr,
):
    """A program has ELEMENTS elements of one tensor."""
    program = tl.program_id(0)
    slot, block, size = find_block(program, sizes, ELEMENTS)
    param = pick(weights, slot)
    grad = pick(grads, slot)
    start = block.to(tl.int64) * ELEMENTS
    offsets = start + tl.arange(0, ELEMENTS)
    if start + ELEMENTS <= size:
        norm, moved = squares_of_block(param, grad, offsets, None, weight_decay, grad_scale,
                                       MAXIMIZE, SCALE_IN_MEMORY)  # fmt: skip
    else:
        norm, moved = squares_of_block(param, grad, offsets, offsets < size, weight_decay,
                                       grad_scale, MAXIMIZE, SCALE_IN_MEMORY)  # fmt: skip
    tl.store(norms + first_share + program, norm)
    if moves is not None:
        tl.store(moves + first_share + program, moved)


@triton.jit(do_not_specialize=["accumulator", "lr", "found_inf"])
def accumulate_kernel(
    sums,  # [1 or 2], float64: of the gradient, and of the direction where that is another
    accumulator,  # float64
    step,  # float32: what the direction is multiplied by
    lr,
    eps,
    found_inf,
    LAST: tl.constexpr,
    LR_IN_MEMORY: tl.constexpr,
):
    """One program: v += |d|², step = lr / (√v + eps), in float64."""
    total = tl.load(accumulator) + tl.load(sums + LAST)
    tl.debug_barrier()  # every thread has read the accumulator before one of them writes it
    if allowed(found_inf):
        tl.store(accumulator, total)
    rate = scalar(lr, LR_IN_MEMORY).to(tl.float64)
    tl.store(step, (rate / (tl.sqrt(total) + scalar(eps, False).to(tl.float64))).to(tl.float32))


@triton.jit(do_not_specialize=["grad_scale", "found_inf"])
def move_kernel(
    weights,  # tuples of tensors, one of each for every slot
    grads,
    sizes,  # coded
    step,  # float32
    weight_decay,
    grad_scale,
    found_inf,
    ELEMENTS: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    SCALE_IN_MEMORY: tl.constexpr,
):
    """A program has ELEMENTS elements of one tensor: w -= step · d."""
    slot, block, size = find_block(tl.program_id(0), sizes, ELEMENTS)
    param = pick(weights, slot)
    grad = pick(grads, slot)
    length = tl.load(step)
    allow = allowed(found_inf)
    start = block.to(tl.int64) * ELEMENTS
    offsets = start + tl.arange(0, ELEMENTS)
    if start + ELEMENTS <= size:
        move_block(param, grad, offsets, None, length, allow, weight_decay, grad_scale, MAXIMIZE,
                   SCALE_IN_MEMORY)  # fmt: skip
    else:
        move_block(param, grad, offsets, offsets < size, length, allow, weight_decay, grad_scale,
                   MAXIMIZE, SCALE_IN_MEMORY)  # fmt: skip
