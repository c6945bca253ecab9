"""Triton kernels, compiled at their first use for the device at hand.

Arguments have passed the ops' checks. Triton is imported by the first call that needs it, so that
the package works where Triton is missing. Learning rate and gradient scale may be numbers, or
0-dimensional float64 tensors on the device: the kernels read those themselves, so that nothing
waits for the device and a captured CUDA graph replays with new values. So it is with
``found_inf``, a 0-dimensional floating-point tensor: where it is not zero, nothing is written.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels.backends.outputs import BatchMoments, sq_norm
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.triton import _launch

__all__ = [
    "DTYPES",
    "accumulate_moments_",
    "adagrad_norm_step_",
    "adagrad_step_",
    "batch_adagrad_step_",
    "batch_moments",
    "refuses",
    "unavailable",
]

#: Element types of the kernels; float64 is left to the other backends.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

#: What the compiler accepts, and bfloat16 needs.
OLDEST_CAPABILITY = (8, 0)

#: The first release whose loops can be told to leave constants inside (`disable_licm`); torch 2.9
#: came with it. Outside they take registers that the kernels do not have.
OLDEST_TRITON = (3, 5)


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; run `pip install triton`"
    unsupported = _unsupported()
    if unsupported is not None or _runs_elsewhere():
        return unsupported
    return None if torch.cuda.is_available() else "torch sees no CUDA device"


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why tensors of this device and dtype are not taken, or None."""
    if dtype not in DTYPES:
        accepted = ", ".join(map(str, DTYPES))
        return f"it has no kernels for {dtype}; accepted are {accepted}"
    return None if _runs_elsewhere() else _too_old(device)


def _runs_elsewhere() -> bool:
    """Whether something in a GPU's place runs the kernels, on tensors of any device."""
    return _launch.executor() is not None or os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def _unsupported() -> str | None:
    """Why the Triton that is installed cannot compile the kernels, or None."""
    try:
        import triton
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    version = triton.__version__
    if tuple(int(number) for number in version.split(".")[:2]) < OLDEST_TRITON:
        needed = ".".join(map(str, OLDEST_TRITON))
        return (
            f"Triton {version} does not know `disable_licm` of loops, and the kernels need "
            f"{needed} or newer, which comes with torch 2.9"
        )
    return None


@functools.cache
def _too_old(device: torch.device) -> str | None:
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        given, needed = (".".join(map(str, pair)) for pair in (capability, OLDEST_CAPABILITY))
        return f"{device} has compute capability {given}, and the kernels need {needed} or newer"
    return None


def batch_moments(per_sample_grads: Tensor, variance: bool, inner_products: bool) -> BatchMoments:
    """Mean, variance, squared norms and inner products with the mean, of the rows of G."""
    from adadagrad_kernels.backends.triton.kernels.batch_moments import batch_moments as run

    with _launch.device_of(per_sample_grads):
        return run(per_sample_grads, variance, inner_products)


def accumulate_moments_(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    """A chunk of rows added to the sum and squared deviations of ``samples`` others."""
    from adadagrad_kernels.backends.triton.kernels.accumulate_moments import (
        accumulate_moments_ as run,
    )

    with _launch.device_of(chunk):
        run(sum, squares, sq_norms, chunk, samples)
    increment_version([sum, sq_norms] if squares is None else [sum, squares, sq_norms])


def batch_adagrad_step_(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    rule: AdagradRule,
    variance: bool,
    inner_products: bool,
) -> BatchMoments:
    """The moments of G, and an AdaGrad step of ``param`` along their mean."""
    from adadagrad_kernels.backends.triton.kernels.batch_adagrad_step import (
        batch_adagrad_step_ as run,
    )

    with _launch.device_of(param):
        moments = run(param, state_sum, per_sample_grads, rule, variance, inner_products)
    increment_version([param, state_sum])
    return moments


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad step of every tensor; returns the squared norm of the whole gradient."""
    if not params:
        return sq_norm("cpu", 0.0)
    from adadagrad_kernels.backends.triton.kernels.adagrad_step import adagrad_step_ as run

    with _launch.device_of(params[0]):
        norm = run(params, grads, state_sums, rule)
    increment_version([*params, *state_sums])
    return norm


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad-Norm step; one accumulator in all, or one for each row of each tensor."""
    if not params:
        return sq_norm("cpu", 0.0)
    from adadagrad_kernels.backends.triton.kernels.adagrad_norm_step import (
        adagrad_norm_step_ as run,
    )

    with _launch.device_of(params[0]):
        norm = run(params, grads, accumulators, row_wise, rule)
    increment_version([*params, *accumulators])
    return norm
