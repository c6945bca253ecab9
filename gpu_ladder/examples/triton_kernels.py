"""Two functions and their launches, for ``python -m gpu_ladder check triton_kernels.py:scale``."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import triton
import triton.language as tl

from gpu_ladder.check import Launch, Output

BLOCK = 256


@triton.jit
def scale(x, y, n, factor, BLOCK: tl.constexpr):
    """Factor times x into y."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    tl.store(y + i, factor * tl.load(x + i, mask=inside), mask=inside)


@triton.jit
def total(x, out, n, BLOCK: tl.constexpr):
    """The sum of x. Planted: every program stores its own where all of them are to be added."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out, tl.sum(tl.load(x + i, mask=i < n, other=0.0), 0))


def launches() -> Iterator[Launch]:
    """Four programs each, the last one with a tail."""
    n = 1000
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    arguments = {"x": x, "n": n, "BLOCK": BLOCK}
    yield Launch(
        "scale",
        grid=4,
        arguments={**arguments, "y": Output(n, torch.float32), "factor": 2.0},
        expected={"y": 2.0 * x},
    )
    yield Launch(
        "total",
        grid=4,
        arguments={**arguments, "out": Output(1, torch.float32)},
        expected={"out": x.sum().reshape(1)},
        tolerance=1e-4,
    )
