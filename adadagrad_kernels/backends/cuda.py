"""The CUDA C++ kernels: addresses, sizes and strides handed to the compiled module.

Arguments have passed the ops' checks. Kernels are put into the stream that torch works on, and
nothing here waits for them. Memory comes from torch's allocator, which gives it back to the same
stream's next user; the version counters of what is written are raised here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels import _native
from adadagrad_kernels.backends import outputs
from adadagrad_kernels.backends.outputs import BatchMoments, addresses, sq_norm
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.checks import address

# The order of ElementType in csrc/kernels.h.
_TYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

_Place: TypeAlias = tuple[int, int, Callable[[int], int]]

_OLDEST = (8, 0)

# DLPack's number for the devices whose tensors are read here.
_DLPACK_DEVICE = 2


def _module() -> Any:
    """The compiled module; where it is None, `unavailable` says so and nothing here is called."""
    return _native.C_cuda


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    return _native.cuda_unavailable()


def refuses(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why tensors of this device and dtype are not taken, or None."""
    if dtype not in _TYPE_CODES:
        accepted = ", ".join(map(str, _TYPE_CODES))
        return f"it has no kernels for {dtype}; accepted are {accepted}"
    major, minor = _module().compute_capability(_index(device))
    if (major, minor) < _OLDEST:
        return (
            f"{device} has compute capability {major}.{minor}, and these kernels "
            f"need {_OLDEST[0]}.{_OLDEST[1]} or newer"
        )
    obstacle = _module().obstacle(_index(device))
    if obstacle:
        return (
            f"{device} has compute capability {major}.{minor}, and does not run the code that the "
            f"kernels were compiled to ({obstacle}); build them for it, with "
            f"CMAKE_ARGS=-DCMAKE_CUDA_ARCHITECTURES={major}{minor}-real"
        )
    return None


def batch_moments(per_sample_grads: Tensor, variance: bool, inner_products: bool) -> BatchMoments:
    """Mean, variance, squared norms and inner products with the mean, of the rows of G."""
    moments = BatchMoments.empty(per_sample_grads, variance, inner_products)
    place, kept = _place(per_sample_grads.device)
    _module().batch_moments(*_moments_arguments(per_sample_grads, moments), place)
    kept.clear()
    return moments


def accumulate_moments_(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    """A chunk of rows added to the sum and squared deviations of ``samples`` others."""
    place, kept = _place(chunk.device)
    _module().accumulate_moments(
        address(chunk),
        _code(chunk),
        (*chunk.shape, chunk.stride(0), samples),
        (address(sum), 0 if squares is None else address(squares), address(sq_norms)),
        place,
    )
    kept.clear()
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
    moments = BatchMoments.empty(per_sample_grads, variance, inner_products)
    place, kept = _place(per_sample_grads.device)
    _module().batch_adagrad_step(
        address(param),
        address(state_sum),
        *_moments_arguments(per_sample_grads, moments),
        rule.lr,
        rule.eps,
        rule.weight_decay,
        rule.maximize,
        place,
    )
    kept.clear()
    increment_version([param, state_sum])
    return moments


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad step of every tensor; returns the squared norm of the whole gradient."""
    update = _module().Update(
        [
            (address(param), address(grad), address(state_sum), param.numel(), 1, _code(param))
            for param, grad, state_sum in zip(params, grads, state_sums, strict=True)
        ]
    )
    return _run(_module().adagrad_step, update, [*params, *state_sums], rule)


def quick_adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    rule: AdagradRule,
) -> Tensor | None:
    """The same for unchecked lists, read as a whole; None where they need the checks."""
    lists = [list(params), list(grads), list(state_sums)]
    update = _read(lists, _module().Accumulators.elements)
    if update is None:
        return None
    return _run(_module().adagrad_step, update, lists[0] + lists[2], rule)


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor:
    """An AdaGrad-Norm step; one accumulator in all, or one for each row of each tensor."""
    tensors = [
        (
            address(param),
            address(grad),
            address(accumulators[index]) if row_wise else 0,
            param.numel(),
            accumulators[index].numel() if row_wise else 1,
            _code(param),
        )
        for index, (param, grad) in enumerate(zip(params, grads, strict=True))
    ]
    update = _module().Update(tensors, 0 if row_wise else address(accumulators[0]))
    return _run(_module().adagrad_norm_step, update, [*params, *accumulators], rule)


def quick_adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor | None:
    """The same for unchecked lists, read as a whole; None where they need the checks."""
    lists = [list(params), list(grads), list(accumulators)]
    kinds = _module().Accumulators
    update = _read(lists, kinds.rows if row_wise else kinds.one)
    if update is None:
        return None
    return _run(_module().adagrad_norm_step, update, lists[0] + lists[2], rule)


def _read(lists: list[list[Tensor]], kind: Any) -> Any | None:
    """An update of params, grads and accumulators that are plainly right, or None."""
    place = (_DLPACK_DEVICE, _index(lists[0][0].device))
    return _module().read_lists(*place, *lists, kind, torch.is_grad_enabled())


def _run(
    step: Callable[..., None], update: Any, written: list[Tensor], rule: AdagradRule
) -> Tensor:
    """Put a step into the stream; the caller holds the tensors of the update."""
    device = written[0].device
    norm = sq_norm(device)
    place, kept = _place(device)
    step(update, *_scalars(rule), norm.data_ptr(), place)
    kept.clear()
    increment_version(written)
    return norm


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


def _stream(device: torch.device) -> int:
    """The handle of the stream that torch puts work into."""
    handle: int = torch.cuda.current_stream(device).cuda_stream
    return handle


def _place(device: torch.device) -> tuple[_Place, list[Tensor]]:
    """Where a call runs, and the workspaces it is given.

    A workspace may go back to the allocator once the kernels are in the stream: whoever gets it
    next puts its own work behind them.
    """
    kept: list[Tensor] = []

    def allocate(count: int) -> int:
        kept.append(outputs.allocate(count, torch.uint8, device))
        return kept[-1].data_ptr()

    return (_index(device), _stream(device), allocate), kept


def _moments_arguments(grads: Tensor, moments: BatchMoments) -> tuple[int, ...]:
    return (address(grads), _code(grads), *grads.shape, grads.stride(0), *addresses(moments))


def _scalars(
    rule: AdagradRule,
) -> tuple[tuple[float, float, float, float, bool], tuple[int, int, int]]:
    """The host's scalars, and the addresses of those that lie on the device."""
    lr, eps, weight_decay, maximize, grad_scale, found_inf = rule
    on_host = (
        0.0 if isinstance(lr, Tensor) else lr,
        eps,
        weight_decay,
        1.0 if isinstance(grad_scale, Tensor) else grad_scale,
        maximize,
    )
    on_device = (
        address(lr) if isinstance(lr, Tensor) else 0,
        address(grad_scale) if isinstance(grad_scale, Tensor) else 0,
        0 if found_inf is None else address(found_inf),
    )
    return on_host, on_device


def _code(tensor: Tensor) -> int:
    return _TYPE_CODES[tensor.dtype]
