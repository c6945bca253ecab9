"""What the layers that multiply share: chunks of contributions that stay in cache."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.backends import reference
from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.checks import ACCUMULATION_DTYPES
from adadagrad_kernels.memory import is_out_of_memory

#: What a pass over an element of a contribution costs, in multiplications of a large product.
PASS = 12.0
#: Products of a sample's positions with each other run at this fraction of a large one's speed.
SMALL_PRODUCT_SPEED = 0.25
#: Bytes of a chunk that a CPU's second-level caches hold, and the most that one may take.
_CACHE_BYTES = 2 << 20
_MOST_BYTES = 32 << 20
#: Of large contributions so many go together that a chunk has as many bytes for each element as
#: a running sum, which is read and written anew for each chunk.
_SUM_BYTES = 8


def narrow(dtype: torch.dtype) -> bool:
    """Whether elements are narrower than their sums."""
    return ACCUMULATION_DTYPES[dtype] != dtype


def chunk_samples(
    samples: int, elements: int, dtype: torch.dtype, device: torch.device | str
) -> int:
    """Samples of a chunk of contributions of so many elements: all of them, or a power of two.

    A batched product gives each thread some of the chunk's samples; of three, one of two threads
    gets two, and the other waits for it.
    """
    size = max(1, elements) * dtype.itemsize
    fit = _cache_bytes(torch.device(device)) // size
    together = min(_SUM_BYTES // dtype.itemsize, _MOST_BYTES // size)
    count = max(1, fit, together)
    return samples if count >= samples else 1 << (count.bit_length() - 1)


def chunk_rows(rows: int, elements: int, dtype: torch.dtype, device: torch.device | str) -> int:
    """Rows of a chunk of so many elements each: as many in each chunk, or almost."""
    # Narrow types multiply so fast that a product of few rows waits for its operands.
    caches = 8 if narrow(dtype) else 4
    size = max(1, elements) * dtype.itemsize
    fit = max(1, caches * _cache_bytes(torch.device(device)) // size)
    chunks = -(-rows // fit)
    return -(-rows // chunks)


@functools.cache
def _cache_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return _CACHE_BYTES
    # Half of it: what is multiplied goes through the same cache.
    return int(torch.cuda.get_device_properties(device).L2_cache_size) // 2


def flat_product(y: Tensor, x: Tensor) -> Tensor:
    """The gradient y' x over ``[rows, features]``, by the call that autograd makes, widened."""
    return y.t().mm(x).to(ACCUMULATION_DTYPES[x.dtype])


def product_chunk(
    left: Tensor, right: Tensor, memory: Tensor, sums: Tensor | None = None
) -> Tensor:
    """The product left' right of every sample, in ``memory``; or in float32, as CUDA offers it.

    Args:
        left: ``[samples, positions, rows]``.
        right: ``[samples, positions, columns]``.
        memory: ``[samples, rows, columns]``.
        sums: is given those of ``left`` over positions, ``[samples, rows]``, in the sum type.
    """
    if left.is_cuda or not narrow(left.dtype):
        if sums is not None:
            _transpose_positions(left, None, sums)
        if narrow(left.dtype) and hasattr(torch.ops.aten.bmm, "dtype"):
            wide: Tensor = torch.ops.aten.bmm.dtype(left.mT, right, torch.float32)
            return wide
        return torch.bmm(left.mT, right, out=memory)
    # oneDNN multiplies narrow types up to twice as fast when rows are adjacent, and compact.
    rows = left.mT
    if not rows.is_contiguous():
        rows = left.new_empty(rows.shape)
        _transpose_positions(left, rows, sums)
    elif sums is not None:
        _transpose_positions(left, None, sums)
    return torch.bmm(rows, _compact(right), out=memory)


def position_sums(values: Tensor) -> Tensor:
    """Of ``[samples, positions, features]`` over positions, in the sum type."""
    samples, _, features = values.shape
    sums = values.new_empty(samples, features, dtype=ACCUMULATION_DTYPES[values.dtype])
    _transpose_positions(values, None, sums)
    return sums


def products_with_gradient(along: Tensor, grad_outputs: Tensor) -> Tensor:
    """<h_i, gradient> = <y_i, what the layer makes of x_i with its gradient as the weight>."""
    backend = backends.select(along.device, along.dtype, "batch_moments")
    run = getattr(backend, "row_products", reference.row_products)
    products: Tensor = run(along, grad_outputs)
    return products


def in_product_type(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As they are multiplied with the gradient: in float32 at least, or in bfloat16.

    The gradient is rounded with them, as the step that measures nothing rounds it; in float16 it
    could be too large.
    """
    dtype = tensors[0].dtype
    if dtype != torch.bfloat16:
        dtype = ACCUMULATION_DTYPES[dtype]
    return tuple(tensor.to(dtype) for tensor in tensors)


def _transpose_positions(values: Tensor, transposed: Tensor | None, sums: Tensor | None) -> None:
    """In one pass where the backend has it."""
    backend = backends.select(values.device, values.dtype, "batch_moments")
    run = getattr(backend, "transpose_positions_", reference.transpose_positions_)
    run(values, transposed, sums)


def _compact(matrices: Tensor) -> Tensor:
    """Copied where rows are apart: oneDNN's narrow products of slices take up to 1.8 times."""
    if matrices.is_contiguous() or matrices.mT.is_contiguous():
        return matrices
    return matrices.mT.contiguous().mT


def chunked_moments(
    contributions: Callable[[slice, Tensor], Tensor],
    grad_outputs: Tensor,
    shape: tuple[int, ...],
    variance: bool,
    operands: int = 0,
) -> LayerMoments:
    """The moments of a weight, from the contributions of all samples, chunk by chunk.

    Args:
        contributions: gives those of some samples ``[samples, *shape]``, in the memory that it is
            handed or in its own.
        grad_outputs: of the layer, ``[samples, ...]``.
        shape: of one contribution.
        variance: whether to measure it.
        operands: elements of a sample that are written out to multiply them.
    """
    moments = LayerMoments.empty(grad_outputs, shape, None, variance, False)
    squares = moments.weight_variance
    sums = (moments.weight_grad.view(-1), None if squares is None else squares.view(-1))
    samples, elements = len(grad_outputs), torch.Size(shape).numel()
    dtype, device = grad_outputs.dtype, grad_outputs.device
    size = chunk_samples(samples, max(elements, operands), dtype, device)
    memory: Tensor | None = None
    start = 0
    while start < samples:
        rows = slice(start, min(start + size, samples))
        count = rows.stop - start
        try:
            if memory is None:
                memory = grad_outputs.new_empty(count, *shape)
            chunk = contributions(rows, memory[:count]).reshape(count, elements)
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            memory, size = None, size // 2
            continue
        backend = backends.select(chunk.device, chunk.dtype, "accumulate_moments_")
        backend.accumulate_moments_(*sums, moments.sq_norms[rows], chunk, start)
        start = rows.stop
    if squares is not None:
        squares.div_(samples - 1)
    return moments
