"""AdaGrad's update of many tensors, and the squared norm of the whole gradient.

    d = ±g / grad_scale + weight_decay · w,  v += d²,  w -= lr · d / (√v + eps)

Traffic: 20 bytes per element in float32, 10 in the narrow types, and 4 bytes per `ELEMENTS`
elements for the shares of the norm. The arithmetic is float32, the norm's shares are added up in
float64 in the order of their places.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels._lists import (
    aligned,
    batches,
    code,
    find_block,
    padded,
    pick,
)
from adadagrad_kernels.backends.triton.kernels._sums import add_up
from adadagrad_kernels.backends.triton.kernels._update import (
    adagrad,
    allowed,
    decay_or_none,
    descent,
    load,
    plain,
    scalar,
    scale_or_none,
    store,
    unscaled,
)

#: Elements and warps of a program: 16 elements of each tensor in a thread.
ELEMENTS, WARPS = 2048, 4


@triton.jit
def step_block(
    param,
    grad,
    state_sum,
    offsets,
    mask,  # None where all of the block is inside: only then Triton knows that vectors are
    allow,
    rate,
    eps,
    weight_decay,
    grad_scale,
    MAXIMIZE: tl.constexpr,
    SCALE_IN_MEMORY: tl.constexpr,
):
    """The step of a block of elements; returns the sum of squares of its gradient."""
    gradient = unscaled(load(grad + offsets, mask), grad_scale, SCALE_IN_MEMORY)
    value = load(param + offsets, mask)
    total = load(state_sum + offsets, mask)
    direction = descent(value, gradient, weight_decay, MAXIMIZE)
    value, total = adagrad(value, direction, total, rate, scalar(eps, False))
    if allow:
        store(param + offsets, value, mask)
        store(state_sum + offsets, total, mask)
    return tl.sum(gradient * gradient, axis=0)


# A parameter called `params` would collide with a name inside Triton's generated launcher.
@triton.jit(do_not_specialize=["first_share", "lr", "grad_scale", "found_inf"])
def adagrad_step_kernel(
    weights,  # tuples of tensors, one of each for every slot
    grads,
    state_sums,
    sizes,  # coded
    norms,  # one share for every program
    first_share,
    lr,
    eps,
    weight_decay,
    grad_scale,
    found_inf,
    ELEMENTS: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    LR_IN_MEMORY: tl.constexpr,
    SCALE_IN_MEMORY: tl.constexpr,
):
    """A program has ELEMENTS elements of one tensor."""
    program = tl.program_id(0)
    slot, block, size = find_block(program, sizes, ELEMENTS)
    param = pick(weights, slot)
    grad = pick(grads, slot)
    state_sum = pick(state_sums, slot)

    rate = scalar(lr, LR_IN_MEMORY)
    allow = allowed(found_inf)
    start = block.to(tl.int64) * ELEMENTS
    offsets = start + tl.arange(0, ELEMENTS)
    if start + ELEMENTS <= size:
        norm = step_block(param, grad, state_sum, offsets, None, allow, rate, eps, weight_decay,
                          grad_scale, MAXIMIZE, SCALE_IN_MEMORY)  # fmt: skip
    else:
        norm = step_block(param, grad, state_sum, offsets, offsets < size, allow, rate, eps,
                          weight_decay, grad_scale, MAXIMIZE, SCALE_IN_MEMORY)  # fmt: skip
    tl.store(norms + first_share + program, norm)


class _Triple(NamedTuple):
    param: Tensor
    grad: Tensor
    state_sum: Tensor


def _programs(batch: list[_Triple]) -> int:
    return sum(triton.cdiv(triple.param.numel(), ELEMENTS) for triple in batch)


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor:
    """See `backends.reference.adagrad_step_`."""
    if not params:
        return sq_norm("cpu", 0.0)
    triples = [_Triple(*three) for three in zip(params, grads, state_sums, strict=True)]
    groups = batches(
        (triple for triple in triples if triple.param.numel()),
        lambda triple: (triple.param.dtype, *aligned(*triple)),
        lambda triple: triple.param.numel(),
    )
    rate, rate_in_memory = plain(rule.lr)
    scale, scale_in_memory = scale_or_none(rule.grad_scale)
    constants = {
        "ELEMENTS": ELEMENTS,
        "MAXIMIZE": rule.maximize,
        "LR_IN_MEMORY": rate_in_memory,
        "SCALE_IN_MEMORY": scale_in_memory,
    }
    decay = decay_or_none(rule.weight_decay)
    scalars = (rate, float(rule.eps), decay, scale, rule.found_inf)
    programs = [_programs(batch) for batch in groups]
    norms = torch.empty((1, sum(programs)), dtype=torch.float32, device=params[0].device)
    first = 0
    for batch, count in zip(groups, programs, strict=True):
        tensors = (padded(column) for column in zip(*batch, strict=True))
        sizes = padded((code(triple.param.numel()) for triple in batch), code(0))
        launch(
            adagrad_step_kernel,
            (count,),
            (*tensors, sizes, norms, first, *scalars),
            constants,
            WARPS,
        )
        first += count
    increment_version([*params, *state_sums])
    return add_up(norms)[0]
