"""The ops of layers and of sparse gradients on a GPU, beside the gradient alone and a copy.

Some have no kernel for a GPU and run on the reference there; the table then names that.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from adadagrad_kernels import ops
from adadagrad_kernels.backends import BACKENDS
from benchmarks.gpu.contenders import COPY, Calls, Workbench, on
from benchmarks.gpu.counts import Call

ALL = {"variance": True, "inner_products": True}
#: Rows of the embedding.
TABLE = 50_257


def _ours(bench: Workbench, needed: str, call: Call) -> Calls:
    """``call`` on our backends that have the kernel it needs, or on the reference."""
    names = [name for name in bench.backends if hasattr(BACKENDS[name].module, needed)]
    return {name: partial(on, name, call) for name in names or ["reference"]}


def accumulate(bench: Workbench, least: int, rows: int, dtype: torch.dtype) -> Calls:
    """``accumulate_moments_`` of a chunk behind others."""
    chunk = bench.grads(rows, dtype)
    total, squares = torch.zeros(2, chunk.shape[1], device=bench.device)
    norms = torch.zeros(rows, dtype=torch.float64, device=bench.device)
    call = partial(ops.accumulate_moments_, total, squares, norms, chunk, samples=8)
    return {**_ours(bench, "accumulate_moments_", call), COPY: bench.copies(least)}


def conv(
    bench: Workbench, least: int, samples: int, channels: int, width: int, dtype: torch.dtype
) -> Calls:
    """``conv_moments`` of a 3 x 3 convolution."""
    shape = (samples, channels, width, width)
    inputs, grads = (bench.numbers(samples * channels * width**2, dtype).view(shape)
                     for _ in range(2))  # fmt: skip
    call = partial(ops.conv_moments, inputs, grads, (3, 3), padding=(1, 1), bias=True, **ALL)
    weight = (channels, channels, 3, 3)
    alone = partial(torch.nn.grad.conv2d_weight, inputs, weight, grads, padding=1)
    calls = {**_ours(bench, "accumulate_moments_", call), COPY: bench.copies(least)}
    return {**calls, "torch, gradient alone": alone}


def norm_layer(
    bench: Workbench, least: int, samples: int, positions: int, features: int, dtype: torch.dtype
) -> Calls:
    """``norm_layer_moments`` of a LayerNorm."""
    shape = (samples, positions, features)
    inputs, grads = (bench.numbers(samples * positions * features, dtype).view(shape)
                     for _ in range(2))  # fmt: skip
    wide = inputs.float()
    mean = wide.mean(-1, keepdim=True)
    rstd = (wide.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt()
    call = partial(ops.norm_layer_moments, inputs, grads, mean, rstd, bias=True, **ALL)
    weight = torch.ones(features, device=bench.device, dtype=dtype)
    statistics = (mean, rstd) if inputs.is_cuda or dtype == torch.float32 else (
        mean.to(dtype), rstd.to(dtype))  # fmt: skip
    alone = partial(
        torch.ops.aten.native_layer_norm_backward, grads, inputs, (features,), *statistics,
        weight, weight, [False, True, True],
    )  # fmt: skip
    calls = {**_ours(bench, "norm_layer_moments", call), COPY: bench.copies(least)}
    return {**calls, "torch, gradient alone": alone}


def embedding(
    bench: Workbench, least: int, samples: int, positions: int, features: int, dtype: torch.dtype
) -> Calls:
    """``embedding_moments`` of a table of ``TABLE`` rows."""
    indices = torch.randint(TABLE, (samples, positions), device=bench.device)
    grads = bench.numbers(samples * positions * features, dtype).view(samples, positions, features)
    call = partial(ops.embedding_moments, indices, grads, TABLE, **ALL)
    alone = partial(torch.ops.aten.embedding_dense_backward, grads, indices, TABLE, -1, False)
    calls = {**_ours(bench, "embedding_moments", call), COPY: bench.copies(least)}
    return {**calls, "torch, gradient alone": alone}


def sparse(bench: Workbench, least: int, rows: int, stored: int, features: int) -> Calls:
    """``sparse_mean_step_`` of compressed rows, beside torch's own mean of the touched."""
    dense_rows = torch.arange(rows + 1, device=bench.device) * stored
    columns = torch.randint(features, (rows * stored,), device=bench.device)
    columns = columns.view(rows, stored).sort(1).values.flatten()
    values = bench.numbers(rows * stored)
    param = bench.numbers(features)
    csr = ops.CsrRows(dense_rows, columns, values)
    call = partial(ops.sparse_mean_step_, param, csr, lr=1e-3)
    calls = {**_ours(bench, "sparse_mean_step_", call), COPY: bench.copies(least)}
    return {**calls, "torch, sum and count": partial(_sum_and_count, param, columns, values)}


def _sum_and_count(param: Tensor, columns: Tensor, values: Tensor) -> None:
    total = torch.zeros_like(param).index_add_(0, columns, values)
    count = torch.zeros_like(param).index_add_(0, columns, torch.ones_like(values))
    param.sub_(F.relu(count - 1).add_(1).reciprocal_().mul_(total), alpha=1e-3)
