"""The step along sparse gradients on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels import _native
from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.type_codes import TYPE_CODES
from adadagrad_kernels.checks import address, check_csr_indices

__all__ = [
    "sparse_mean_step_",
]

_C: Any = _native.C  # None only where `unavailable` says so

# What 32 bits number, and for entries a hash table of twice their number.
_MOST_FEATURES = 1 << 32
_MOST_SAMPLES = (1 << 32) - 1
_MOST_ENTRIES = 1 << 30


def sparse_mean_step_(
    param: Tensor,
    crow_indices: Tensor | None,
    col_indices: Tensor | None,
    values: Tensor,
    lr: float,
    mode: str,
    ridge: float,
    probabilities: Tensor | None,
    offset: Tensor | None,
    state_sum: Tensor | None,
    eps: float,
) -> Tensor:
    """A step of ``param`` along the aggregate; returns the squared norm of its direction."""
    features, code = param.numel(), TYPE_CODES[param.dtype]
    samples = len(values) if crow_indices is None else len(crow_indices) - 1
    offset, probabilities = _contiguous(offset), _contiguous(probabilities)
    tensors = tuple(
        0 if tensor is None else address(tensor)
        for tensor in (param, state_sum, offset, probabilities)
    )
    scalars = (lr, eps, ridge, {"adabatch": 0, "mean": samples, "sum": 1}[mode])
    threads = torch.get_num_threads()
    if crow_indices is None or col_indices is None:
        if features > 1 and values.stride(1) != 1:
            values = values.contiguous()
        taken = _C.sparse_mean_dense_step(
            address(values), code, samples, features, values.stride(0), tensors, scalars, threads
        )
    else:
        most = (_MOST_FEATURES, _MOST_SAMPLES, _MOST_ENTRIES)
        given = (features, samples, len(values))
        if any(size > limit for size, limit in zip(given, most, strict=True)):
            raise ValueError(
                f"a batch of {given} features, samples and entries is too large for these "
                f"kernels, which take {most}: cut it, or use the backend reference"
            )
        rows = crow_indices.contiguous(), col_indices.contiguous(), values.contiguous()
        taken = _C.sparse_mean_csr_step(
            address(rows[0]),
            address(rows[1]),
            col_indices.dtype == torch.int64,
            address(rows[2]),
            code,
            samples,
            len(values),
            features,
            tensors,
            scalars,
            threads,
        )
        if taken is None:
            check_csr_indices(*rows, features)  # says what is wrong
    increment_version([param] if state_sum is None else [param, state_sum])
    return sq_norm("cpu", taken)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
