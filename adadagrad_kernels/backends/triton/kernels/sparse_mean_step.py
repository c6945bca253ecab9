"""AdaBatch's step along sparse gradients (Defossez and Bach 2017).

    d_j = (Σ_{i in D_j} g_ij + n_j (offset_j + ridge / p_j w_j)) / divisor,  w_j -= lr d_j

with D_j the n_j samples that touch coordinate j. Of stored entries a program has a coordinate: they
are sorted by it, so that what adds up lies side by side, and there are as many programs as there
can be coordinates; those without one end at once. Of rows with zeros a program has a strip of
coordinates. A coordinate's sum is in float64. The direction's squares are shares in float64, which
`_sums.add_up` adds up.

Traffic: the gradients once, and of touched coordinates what the rule needs; of stored entries the
column and the row twice as well, which are sorted.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels._columns import load_tile
from adadagrad_kernels.backends.triton.kernels._segments import numbered, starts
from adadagrad_kernels.backends.triton.kernels._sums import add_up
from adadagrad_kernels.backends.triton.kernels._update import scalar
from adadagrad_kernels.checks import check_csr_indices

#: Entries of a coordinate at a time, and warps.
ENTRIES, ENTRY_WARPS = 128, 1
#: Samples at a time, coordinates and warps, of rows with zeros.
ROWS, COLUMNS, WARPS = 16, 128, 4


@triton.jit
def step_along(
    param, state_sum, offset, probabilities, at, touched, total, count,
    lr, eps, ridge, divisor, BY_COUNT: tl.constexpr,
):  # fmt: skip
    """The step of touched coordinates; returns d².

    There may be fewer coordinates than threads, and several threads load what one of them stores:
    the barrier keeps the loads of all before the stores.
    """
    value = tl.load(param + at, mask=touched, other=0.0).to(tl.float32)
    if offset is not None:
        total += count * tl.load(offset + at, mask=touched, other=0.0)
    if probabilities is not None:
        likely = tl.load(probabilities + at, mask=touched, other=1.0)
        total += count * (tl.div_rn(scalar(ridge, False) + tl.zeros_like(likely), likely) * value)
    by = tl.where(touched, count, 1.0)
    if not BY_COUNT:
        by = scalar(divisor, False) + tl.zeros_like(total)
    direction = tl.div_rn(total, by)
    step = scalar(lr, False) * direction
    if state_sum is not None:
        squares = tl.load(state_sum + at, mask=touched, other=0.0).to(tl.float32)
        squares += direction * direction
        step = tl.div_rn(step, tl.sqrt_rn(squares) + scalar(eps, False))
    tl.debug_barrier()
    if state_sum is not None:
        tl.store(state_sum + at, squares.to(state_sum.dtype.element_ty), mask=touched)
    tl.store(param + at, (value - step).to(param.dtype.element_ty), mask=touched)
    wide = direction.to(tl.float64)
    return tl.where(touched, wide * wide, 0.0)


@triton.jit(do_not_specialize=["shares", "lr", "eps", "ridge", "divisor"])
def entries_step_kernel(
    values,  # [entries]
    order,  # [entries], sorted by column, samples in their order
    columns,  # [entries], in that order
    rows,  # the sample of each, in that order
    first,  # where each column's begin, [entries + 1]
    param,
    state_sum,
    offset,
    probabilities,
    shares,  # [entries], zeros before
    lr,
    eps,
    ridge,
    divisor,
    BY_COUNT: tl.constexpr,
    ENTRIES: tl.constexpr,
):
    """The coordinate of a run of entries, of whose samples those at several places count once."""
    run = tl.program_id(0).to(tl.int64)
    begin = tl.load(first + run)
    end = tl.load(first + run + 1)
    if begin < end:
        total = tl.zeros([ENTRIES], tl.float64)
        count = tl.zeros([ENTRIES], tl.int32)
        for start in tl.range(begin, end, ENTRIES, disable_licm=True):
            which = start + tl.arange(0, ENTRIES)
            present = which < end
            entry = tl.load(order + which, mask=present, other=0)
            total += tl.load(values + entry, mask=present, other=0.0).to(tl.float64)
            row = tl.load(rows + which, mask=present, other=0)
            before = tl.load(rows + which - 1, mask=present & (which > begin), other=-1)
            count += (present & (row != before)).to(tl.int32)
        at = tl.load(columns + begin) + tl.arange(0, 1)
        touched = at >= 0
        sums = tl.zeros([1], tl.float32) + tl.sum(total, axis=0).to(tl.float32)
        counts = tl.zeros([1], tl.float32) + tl.sum(count, axis=0).to(tl.float32)
        square = step_along(
            param, state_sum, offset, probabilities, at, touched, sums, counts,
            lr, eps, ridge, divisor, BY_COUNT,
        )  # fmt: skip
        tl.store(shares + run, tl.sum(square, axis=0))


@triton.jit(do_not_specialize=["row_stride", "samples", "features", "shares", "lr", "eps", "ridge",
                               "divisor"])  # fmt: skip
def zeros_step_kernel(
    grads,  # [samples, features]
    row_stride,
    samples,
    features,
    param,
    state_sum,
    offset,
    probabilities,
    shares,  # [strips]
    lr,
    eps,
    ridge,
    divisor,
    BY_COUNT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """A strip of coordinates; a sample touches those where it is not zero."""
    strip = tl.program_id(0).to(tl.int64)
    columns = strip * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], tl.float64)
    count = tl.zeros([COLUMNS], tl.int32)
    for start in tl.range(0, samples, ROWS, disable_licm=True):
        rows = start + tl.arange(0, ROWS)
        values = load_tile(grads, row_stride, rows, columns, samples, features, VECTOR)
        total += tl.sum(values, axis=0).to(tl.float64)
        count += tl.sum((values != 0.0).to(tl.int32), axis=0)
    square = step_along(
        param, state_sum, offset, probabilities, columns, count > 0, total.to(tl.float32),
        count.to(tl.float32), lr, eps, ridge, divisor, BY_COUNT,
    )  # fmt: skip
    tl.store(shares + strip, tl.sum(square, axis=0))


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
    """See `backends.reference.sparse_mean_step_`."""
    per_feature = (param, state_sum, *map(_contiguous, (offset, probabilities)))
    by_count = mode == "adabatch"
    samples = len(values) if crow_indices is None else len(crow_indices) - 1
    scalars = (float(lr), float(eps), float(ridge), float(samples if mode == "mean" else 1))
    if crow_indices is None or col_indices is None:
        shares = _along_zeros(values, per_feature, scalars, by_count)
    else:
        check_csr_indices(crow_indices, col_indices, values, param.numel())
        shares = _along_entries(
            (crow_indices, col_indices, values.contiguous()), per_feature, scalars, by_count
        )
    increment_version([param] if state_sum is None else [param, state_sum])
    return add_up(shares)[0] if shares.numel() else sq_norm(param.device, 0.0)


def _along_entries(
    entries: tuple[Tensor, Tensor, Tensor],
    per_feature: tuple[Tensor | None, ...],
    scalars: tuple[float, ...],
    by_count: bool,
) -> Tensor:
    starts_of_rows, columns, values = entries
    columns, order = columns.long().sort(stable=True)
    rows = torch.searchsorted(starts_of_rows.long(), order, right=True) - 1
    shares = torch.zeros(1, len(values), dtype=torch.float64, device=values.device)
    launch(
        entries_step_kernel,
        (len(values),),
        (values, order, columns, rows, starts(numbered(columns)), *per_feature, shares, *scalars),
        {"BY_COUNT": by_count, "ENTRIES": ENTRIES},
        ENTRY_WARPS,
    )
    return shares


def _along_zeros(
    values: Tensor,
    per_feature: tuple[Tensor | None, ...],
    scalars: tuple[float, ...],
    by_count: bool,
) -> Tensor:
    samples, features = values.shape
    if features > 1 and values.stride(1) != 1:
        values = values.contiguous()
    strips = triton.cdiv(features, COLUMNS)
    shares = torch.empty(1, strips, dtype=torch.float64, device=values.device)
    vector = 16 // values.element_size()
    row_stride = values.stride(0)
    launch(
        zeros_step_kernel,
        (strips,),
        (values, row_stride, samples, features, *per_feature, shares, *scalars),
        {
            "BY_COUNT": by_count,
            "ROWS": ROWS,
            "COLUMNS": COLUMNS,
            "VECTOR": vector if row_stride % vector == features % vector == 0 else 1,
        },
        WARPS,
    )
    return shares


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()
