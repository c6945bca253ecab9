"""The one place from which kernels are launched, so that something else can run them instead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Of every kernel. Products and sums are fused nowhere, so that no compiler's taste changes bits;
#: no loop is pipelined, because occupancy hides the latency and stages would cost registers.
OPTIONS = {"num_stages": 1, "enable_fp_fusion": False}


@dataclass(frozen=True)
class Launch:
    """A kernel with everything it is launched with.

    Attributes:
        kernel: the ``triton.jit`` function.
        grid: how many programs, in one to three dimensions.
        arguments: positional, in the order of the kernel's parameters; tensors, numbers, None for
            what is left out, and tuples of these.
        constants: the ``tl.constexpr`` parameters by name.
        num_warps: warps of a program.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    num_warps: int

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told."""
        return {"num_warps": self.num_warps, **OPTIONS}


Executor = Callable[[Launch], None]

_executor: Executor | None = None


def set_executor(executor: Executor | None) -> Executor | None:
    """Have ``executor`` run all kernels, or Triton again for None; gives the one before."""
    global _executor
    previous, _executor = _executor, executor
    return previous


def executor() -> Executor | None:
    """What runs the kernels in Triton's place, if anything does."""
    return _executor


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    num_warps: int,
) -> None:
    """Launch a kernel on the current stream of the current device; not at all for an empty grid."""
    if 0 in grid:
        return
    if _executor is not None:
        _executor(Launch(kernel, grid, arguments, constants, num_warps))
    else:
        kernel[grid](*arguments, **constants, num_warps=num_warps, **OPTIONS)


def device_of(arguments: Iterable[Any]) -> contextlib.AbstractContextManager[Any]:
    """Make the device of a call's tensors the current one, because Triton launches on that."""
    for argument in arguments:
        first = argument[0] if isinstance(argument, list | tuple) and argument else argument
        if isinstance(first, Tensor):
            return torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext()
    return contextlib.nullcontext()
