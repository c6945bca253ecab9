"""The second stage of every sum: shares of programs, added up in a fixed order in float64."""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from adadagrad_kernels.backends.triton._launch import launch

#: Shares that one program adds up; where there are more, its result is a share of the next round.
GROUP = 256
#: Of these so many at a time, for so many samples.
TILES, SAMPLES = 16, 64
#: Shares of one sum that one program adds up, and how many at a time.
SPAN, SPAN_BLOCK = 65536, 1024


@triton.jit(do_not_specialize=["shares", "first", "second", "count", "samples"])
def add_up_kernel(
    shares,  # [1 or 2, count, samples]
    first,  # [groups, samples], float64
    second,  # the same for the second half of the shares
    count,
    samples,
    GROUP: tl.constexpr,
    TILES: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    """Sums of GROUP shares of SAMPLES samples."""
    columns = tl.program_id(0) * SAMPLES + tl.arange(0, SAMPLES)
    group = tl.program_id(1)
    half = tl.program_id(2)
    total = tl.zeros([SAMPLES], tl.float64)
    begin = group * GROUP
    end = tl.minimum(begin + GROUP, count)
    for start in range(begin, end, TILES):
        tiles = start + tl.arange(0, TILES)
        valid = (tiles < end)[:, None] & (columns < samples)[None, :]
        rows = half.to(tl.int64) * count + tiles
        values = tl.load(shares + rows[:, None] * samples + columns[None, :], mask=valid, other=0.0)
        total += tl.sum(values.to(tl.float64), axis=0)
    place = group.to(tl.int64) * samples + columns
    if half == 0:
        tl.store(first + place, total, mask=columns < samples)
    else:
        tl.store(second + place, total, mask=columns < samples)


@triton.jit(do_not_specialize=["count"])
def add_span_kernel(shares, outputs, count, SPAN: tl.constexpr, BLOCK: tl.constexpr):
    """``outputs[row, program]`` = the sum of SPAN shares of a row of ``shares[rows, count]``."""
    span = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float64)
    begin = span * SPAN
    end = tl.minimum(begin + SPAN, count)
    for start in range(begin, end, BLOCK):
        places = start + tl.arange(0, BLOCK)
        total += tl.load(shares + row * count + places, mask=places < end, other=0.0).to(tl.float64)
    tl.store(outputs + row * tl.num_programs(0) + span, tl.sum(total, axis=0))


def add_up(shares: Tensor) -> Tensor:
    """The sum of each row of ``shares[rows, count]``, float64 ``[rows]``."""
    rows, count = shares.shape
    while True:
        spans = max(1, triton.cdiv(count, SPAN))
        outputs = torch.empty((rows, spans), dtype=torch.float64, device=shares.device)
        constants = {"SPAN": SPAN, "BLOCK": SPAN_BLOCK}
        launch(add_span_kernel, (spans, rows), (shares, outputs, count), constants, num_warps=4)
        if spans == 1:
            return outputs[:, 0]
        shares, count = outputs, spans


def finish(shares: Tensor, outputs: tuple[Tensor, ...]) -> None:
    """Add up ``shares[k, :, sample]`` into ``outputs[k][sample]``, for one output or two."""
    _, count, samples = shares.shape
    while True:
        groups = triton.cdiv(count, GROUP)
        targets = outputs
        if groups > 1:
            shape = (len(outputs), groups, samples)
            following = torch.empty(shape, dtype=torch.float64, device=shares.device)
            targets = tuple(following)
        launch(
            add_up_kernel,
            (triton.cdiv(samples, SAMPLES), groups, len(outputs)),
            (shares, targets[0], targets[-1], count, samples),
            {"GROUP": GROUP, "TILES": TILES, "SAMPLES": SAMPLES},
            num_warps=4,
        )
        if groups == 1:
            return
        shares, count = following, groups
