"""The C++ kernels: addresses, sizes and strides handed to the compiled module.

Arguments have passed the ops' checks. The kernels allocate nothing that torch could own; outputs
are made here. The compiled module writes behind autograd's back, so the version counters of what
it has written are raised here, which is how autograd notices a saved tensor that has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels import _native
from adadagrad_kernels.backends import cpu_conv
from adadagrad_kernels.backends.cpu_rows import embedding_moments, norm_layer_moments
from adadagrad_kernels.backends.cpu_sparse import sparse_mean_step_
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import ACCUMULATION_DTYPES, address

__all__ = [
    "accumulate_moments_",
    "adagrad_norm_step_",
    "adagrad_step_",
    "batch_adagrad_step_",
    "batch_moments",
    "conv_moments",
    "embedding_moments",
    "norm_layer_moments",
    "quick_adagrad_norm_step_",
    "quick_adagrad_step_",
    "sparse_mean_step_",
    "subtract_square_",
    "unavailable",
]

# Type and index of the device, as DLPack counts them.
_DLPACK_CPU = (1, 0)

_C: Any = _native.C  # None only where `unavailable` says so, and then nothing here is called


def unavailable() -> str | None:
    """Why this backend cannot run here, or None."""
    return _native.missing or _native.isa_refused


def batch_moments(
    per_sample_grads: Tensor, variance: bool, inner_products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, variance, squared norms and inner products with the mean, of the rows of G."""
    outputs = _empty_moments(per_sample_grads, variance, inner_products)
    _C.batch_moments(*_moments_arguments(per_sample_grads, outputs), torch.get_num_threads())
    return outputs


def conv_moments(
    inputs: Tensor,
    grad_outputs: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    bias: bool,
    variance: bool,
    inner_products: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Moments of the samples' contributions to the weight and bias of a convolution."""
    settings = (kernel_size, stride, padding, dilation, groups)
    asked = (bias, variance, inner_products)
    return cpu_conv.conv_moments(inputs, grad_outputs, *settings, *asked, batch_moments)


def subtract_square_(squares: Tensor, grad: Tensor, scale: float) -> None:
    """``squares`` less ``scale`` times the square of ``grad``, and zero at least."""
    _C.subtract_square(
        address(grad),
        address(squares),
        TYPE_CODES[squares.dtype],
        squares.numel(),
        scale,
        torch.get_num_threads(),
    )
    increment_version([squares])


def accumulate_moments_(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    """A chunk of rows added to the sum and squared deviations of ``samples`` others."""
    _C.accumulate_moments(
        address(chunk),
        TYPE_CODES[chunk.dtype],
        (*chunk.shape, chunk.stride(0), samples),
        (address(sum), 0 if squares is None else address(squares), address(sq_norms)),
        torch.get_num_threads(),
    )
    increment_version([sum, sq_norms] if squares is None else [sum, squares, sq_norms])


def batch_adagrad_step_(
    param: Tensor,
    state_sum: Tensor,
    per_sample_grads: Tensor,
    lr: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    variance: bool,
    inner_products: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The moments of G, and an AdaGrad step of ``param`` along their mean."""
    outputs = _empty_moments(per_sample_grads, variance, inner_products)
    _C.batch_adagrad_step(
        address(param),
        address(state_sum),
        *_moments_arguments(per_sample_grads, outputs),
        lr,
        eps,
        weight_decay,
        maximize,
        torch.get_num_threads(),
    )
    increment_version([param, state_sum])
    return outputs


def _empty_moments(
    grads: Tensor, variance: bool, inner_products: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples, features = grads.shape
    mean = torch.empty(features, dtype=ACCUMULATION_DTYPES[grads.dtype], device="cpu")
    sq_norms = torch.empty(samples, dtype=torch.float64, device="cpu")
    return (
        mean,
        torch.empty_like(mean) if variance else mean.new_empty(0),
        sq_norms,
        torch.empty_like(sq_norms) if inner_products else sq_norms.new_empty(0),
    )


def _moments_arguments(
    grads: Tensor, outputs: tuple[Tensor, Tensor, Tensor, Tensor]
) -> tuple[int, ...]:
    samples, features = grads.shape
    mean, variance, sq_norms, inner_products = outputs
    return (
        address(grads),
        TYPE_CODES[grads.dtype],
        samples,
        features,
        grads.stride(0),
        mean.data_ptr(),
        variance.data_ptr(),
        sq_norms.data_ptr(),
        inner_products.data_ptr(),
    )


def adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | Tensor,
    found_inf: Tensor | None,
) -> Tensor:
    """An AdaGrad step of every tensor; returns the squared norm of the whole gradient."""
    if found_inf is not None and float(found_inf) != 0:
        return _sq_norm(grads, float(grad_scale))
    update = _C.Update(
        [
            (address(param), address(grad), address(state_sum), param.numel(), 1, _code(param))
            for param, grad, state_sum in zip(params, grads, state_sums, strict=True)
        ]
    )
    scalars = (float(lr), eps, weight_decay, maximize, float(grad_scale))
    return _run(_C.adagrad_step, update, [*params, *state_sums], scalars)


def quick_adagrad_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    state_sums: Sequence[Tensor],
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | Tensor,
    found_inf: Tensor | None,
) -> Tensor | None:
    """The same for unchecked lists, read as a whole; None where they need the checks."""
    if found_inf is not None and float(found_inf) != 0:
        return None
    lists = [list(params), list(grads), list(state_sums)]
    update = _read(lists, _C.Accumulators.elements)
    if update is None:
        return None
    scalars = (float(lr), eps, weight_decay, maximize, float(grad_scale))
    return _run(_C.adagrad_step, update, lists[0] + lists[2], scalars)


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | Tensor,
    found_inf: Tensor | None,
) -> Tensor:
    """An AdaGrad-Norm step; one accumulator in all, or one for each row of each tensor."""
    if found_inf is not None and float(found_inf) != 0:
        return _sq_norm(grads, float(grad_scale))
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
    update = _C.Update(tensors, 0 if row_wise else address(accumulators[0]))
    scalars = (float(lr), eps, weight_decay, maximize, float(grad_scale))
    return _run(_C.adagrad_norm_step, update, [*params, *accumulators], scalars)


def quick_adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    lr: float | Tensor,
    eps: float,
    weight_decay: float,
    maximize: bool,
    grad_scale: float | Tensor,
    found_inf: Tensor | None,
) -> Tensor | None:
    """The same for unchecked lists, read as a whole; None where they need the checks."""
    if found_inf is not None and float(found_inf) != 0:
        return None
    lists = [list(params), list(grads), list(accumulators)]
    update = _read(lists, _C.Accumulators.rows if row_wise else _C.Accumulators.one)
    if update is None:
        return None
    scalars = (float(lr), eps, weight_decay, maximize, float(grad_scale))
    return _run(_C.adagrad_norm_step, update, lists[0] + lists[2], scalars)


def _read(lists: list[list[Tensor]], kind: Any) -> Any | None:
    """An update of params, grads and accumulators that are plainly right, or None."""
    return _C.read_lists(*_DLPACK_CPU, *lists, kind, torch.is_grad_enabled())


def _run(
    step: Callable[..., float], update: Any, written: list[Tensor], scalars: tuple[Any, ...]
) -> Tensor:
    """Take a step; the caller holds the tensors of the update."""
    sq_norm = step(update, *scalars, torch.get_num_threads())
    increment_version(written)
    return torch.full((), sq_norm, dtype=torch.float64, device="cpu")


def _sq_norm(grads: Sequence[Tensor], grad_scale: float) -> Tensor:
    """The squared norm of the gradient of a step that is not taken."""
    return torch.stack(
        [torch.zeros((), dtype=torch.float64, device="cpu")]
        + [(grad.double() / grad_scale).square().sum() for grad in grads]
    ).sum()


def _code(tensor: Tensor) -> int:
    return TYPE_CODES[tensor.dtype]
