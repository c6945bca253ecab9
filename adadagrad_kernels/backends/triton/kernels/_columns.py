"""Kernels over tiles of columns of G, for `batch_moments` and `batch_adagrad_step_`.

    mean_j = (1/b) Σ_i g_ij,  squares_j = Σ_i (g_ij - mean_j)²,  s_i = |g_i|²,  p_i = <g_i, mean>

A program has a tile of columns. Sums over rows end in it; of the sums over columns it writes its
own share, float32, to a place of its own, and `_sums.finish` adds the shares up in float64.

* Up to 256 rows a program has all of them (`whole_kernel`): the tile stays in registers, so that
  the deviations from the mean, the inner products with it and the update of the parameters cost no
  second read. Traffic: G once, and for each row of a tile a share of its norm and of its product,
  4 bytes each, written here and read by `_sums`. Tiles have 128 columns up to 128 rows, and more
  where there are few rows: the shares written are then 1.6 % of G in float32 and 3.1 % in the
  narrow types, twice that for 64 columns beyond.
* Beyond that the rows are cut as well. `pool_kernel` sweeps its rows in chunks that are pooled
  (Chan, Golub, LeVeque 1983), `merge_kernel` pools the parts, and `products_kernel` reads G a
  second time where inner products are wanted: that is what they cost for tall batches.
  Deviations are relative to a shift, the mean of a part's first rows where that is far from zero,
  so that rounding is relative to the spread of the gradients and not to their size. Near zero
  there is none: the mean may be small beside every gradient, and its rounding with it. A part has
  so few chunks that rounding hardly grows with them.

Sizes, and addresses of what is not loaded by vectors, are kept from specialising the kernels: there
is one for every shape of tile, element type and alignment of G, and not one for every batch size.

Values outside G enter as zeros and are taken out again of what they would change; those of one
column never meet another's, so what is not finite stays in its column and row.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import triton
import triton.language as tl

from adadagrad_kernels.backends.triton.kernels._update import adagrad, descent, scalar

#: Rows that tell whether a column is far from zero.
FIRST = tl.constexpr(4)


@triton.jit
def load_tile(grads, row_stride, rows, columns, samples, features, VECTOR: tl.constexpr):
    """The values at rows x columns in float32, zero outside of G.

    VECTOR adjacent elements are all inside or all outside, and begin at a multiple of 16 bytes.
    """
    inside = tl.max_constancy(columns < features, [VECTOR])
    valid = (rows < samples)[:, None] & inside[None, :]
    start = tl.multiple_of(rows.to(tl.int64) * row_stride, [VECTOR])
    values = tl.load(grads + start[:, None] + columns[None, :], mask=valid, other=0.0)
    return values.to(tl.float32)


@triton.jit
def update_columns(
    param, state_sum, gradient, columns, inside, rate, eps, weight_decay, MAXIMIZE: tl.constexpr
):
    """AdaGrad's step along the mean.

    There are fewer columns than threads, and several threads load what one of them stores: the
    barrier keeps the loads of all before the store.
    """
    value = tl.load(param + columns, mask=inside, other=0.0).to(tl.float32)
    total = tl.load(state_sum + columns, mask=inside, other=0.0).to(tl.float32)
    tl.debug_barrier()
    direction = descent(value, gradient, weight_decay, MAXIMIZE)
    value, total = adagrad(value, direction, total, rate, scalar(eps, False))
    tl.store(param + columns, value.to(param.dtype.element_ty), mask=inside)
    tl.store(state_sum + columns, total.to(state_sum.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["row_stride", "samples", "features", "norms", "products", "lr"])
def whole_kernel(
    grads,  # [samples, features]
    row_stride,
    samples,
    features,
    mean,  # [features]
    variance,  # [features], or None
    norms,  # shares [tiles, samples]
    products,  # shares [tiles, samples], or None
    param,  # [features], or None where there is nothing to update
    state_sum,
    lr,
    eps,
    weight_decay,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    LR_IN_MEMORY: tl.constexpr,
):
    """Everything about all rows of a tile of columns, in one read."""
    tile = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, ROWS)
    present = rows < samples
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = tl.max_constancy(columns < features, [VECTOR])
    values = load_tile(grads, row_stride, rows, columns, samples, features, VECTOR)

    shares = tile * samples + rows
    tl.store(norms + shares, tl.sum(values * values, axis=1), mask=present)
    average = tl.div_rn(tl.sum(values, axis=0), samples.to(tl.float32))
    tl.store(mean + columns, average, mask=inside)
    if products is not None:
        tl.store(products + shares, tl.sum(values * average[None, :], axis=1), mask=present)
    if variance is not None:
        deviations = tl.where(present[:, None], values - average[None, :], 0.0)
        squares = tl.sum(deviations * deviations, axis=0)
        spread = tl.div_rn(squares, (samples - 1).to(tl.float32))
        tl.store(variance + columns, spread, mask=inside)
    if param is not None:
        rate = scalar(lr, LR_IN_MEMORY)
        update_columns(
            param, state_sum, average, columns, inside, rate, eps, weight_decay, MAXIMIZE
        )


@triton.jit
def shift_of(first, rows):
    """The mean of the first rows where it is more than six of their standard deviations from zero.

    Of [FIRST, columns] values only so many rows are there.
    """
    count = rows.to(tl.float32)
    mean = tl.div_rn(tl.sum(first, axis=0), count)
    present = (tl.arange(0, FIRST) < rows)[:, None]
    away = tl.where(present, first - mean[None, :], 0.0)
    return tl.where(mean * mean * count > 36 * tl.sum(away * away, axis=0), mean, 0.0)


@triton.jit(do_not_specialize=["row_stride", "samples", "features", "rows_each", "norms"])
def pool_kernel(
    grads,  # [samples, features]
    row_stride,
    samples,
    features,
    rows_each,
    part_means,  # [parts, features]
    part_squares,  # [parts, features], or None
    norms,  # shares [tiles, samples]
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Mean and squared deviations of a part of the rows, `rows_each` of them or what is left."""
    tile = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = tl.max_constancy(columns < features, [VECTOR])
    begin = part * rows_each
    end = tl.minimum(begin + rows_each, samples)
    first_rows = begin + tl.arange(0, FIRST)
    first = load_tile(grads, row_stride, first_rows, columns, end, features, VECTOR)
    shift = shift_of(first, tl.minimum(end - begin, FIRST))
    average = tl.zeros([COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for start in tl.range(begin, end, ROWS, disable_licm=True):
        rows = start + tl.arange(0, ROWS)
        present = rows < end
        values = load_tile(grads, row_stride, rows, columns, end, features, VECTOR)
        tl.store(norms + tile * samples + rows, tl.sum(values * values, axis=1), mask=present)
        before = (start - begin).to(tl.float32)
        more = tl.minimum(end - start, ROWS).to(tl.float32)
        deviations = tl.where(present[:, None], values - shift[None, :], 0.0)
        center = tl.div_rn(tl.sum(deviations, axis=0), more)
        delta = center - average
        rate = tl.div_rn(more, before + more)
        if part_squares is not None:
            deviations = tl.where(present[:, None], deviations - center[None, :], 0.0)
            spread = tl.sum(deviations * deviations, axis=0)
            squares += spread + delta * delta * (before * rate)
        average += delta * rate
    place = part * features + columns
    tl.store(part_means + place, shift + average, mask=inside)
    if part_squares is not None:
        tl.store(part_squares + place, squares, mask=inside)


@triton.jit(do_not_specialize=["samples", "features", "parts", "rows_each", "lr"])
def merge_kernel(
    samples,
    features,
    parts,
    rows_each,
    part_means,  # [parts, features]
    part_squares,  # [parts, features], or None
    mean,  # [features]
    variance,  # [features], or None
    param,  # [features], or None where there is nothing to update
    state_sum,
    lr,
    eps,
    weight_decay,
    PARTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    MAXIMIZE: tl.constexpr,
    LR_IN_MEMORY: tl.constexpr,
):
    """Pools PARTS parts after PARTS parts in their order; then the update along the mean.

    Parts are pooled as rows are, each with the number of its rows as its weight.
    """
    columns = tl.program_id(0).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    inside = tl.max_constancy(columns < features, [VECTOR])
    average = tl.zeros([COLUMNS], tl.float32)
    squares = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, parts, PARTS):
        which = start + tl.arange(0, PARTS)
        first_row = which.to(tl.int64) * rows_each
        left = tl.minimum(samples - first_row, rows_each)
        weights = tl.where(which < parts, left, 0).to(tl.float32)
        valid = (which < parts)[:, None] & inside[None, :]
        row = tl.multiple_of(which.to(tl.int64) * features, [VECTOR])
        place = row[:, None] + columns[None, :]
        means = tl.load(part_means + place, mask=valid, other=0.0)
        before = tl.minimum(rows_each.to(tl.int64) * start, samples).to(tl.float32)
        more = tl.sum(weights, axis=0)
        # A mean that is not finite times a weight of zero would be NaN: what is outside is zero.
        center = tl.div_rn(tl.sum(means * weights[:, None], axis=0), more)
        delta = center - average
        rate = tl.div_rn(more, before + more)
        if part_squares is not None:
            spread = tl.load(part_squares + place, mask=valid, other=0.0)
            off = tl.where((which < parts)[:, None], means - center[None, :], 0.0)
            spread += off * off * weights[:, None]
            squares += tl.sum(spread, axis=0) + delta * delta * (before * rate)
        average += delta * rate
    tl.store(mean + columns, average, mask=inside)
    if variance is not None:
        spread = tl.div_rn(squares, (samples - 1).to(tl.float32))
        tl.store(variance + columns, spread, mask=inside)
    if param is not None:
        rate = scalar(lr, LR_IN_MEMORY)
        update_columns(
            param, state_sum, average, columns, inside, rate, eps, weight_decay, MAXIMIZE
        )


@triton.jit(do_not_specialize=["row_stride", "samples", "features", "rows_each", "products"])
def products_kernel(
    grads,  # [samples, features]
    row_stride,
    samples,
    features,
    rows_each,
    mean,  # [features]
    products,  # shares [tiles, samples]
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """The second read of G: the tile's share of the inner products of a part of the rows."""
    tile = tl.program_id(0).to(tl.int64)
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    average = tl.load(mean + columns, mask=columns < features, other=0.0)
    begin = tl.program_id(1).to(tl.int64) * rows_each
    end = tl.minimum(begin + rows_each, samples)
    for start in tl.range(begin, end, ROWS, disable_licm=True):
        rows = start + tl.arange(0, ROWS)
        values = load_tile(grads, row_stride, rows, columns, end, features, VECTOR)
        shares = tl.sum(values * average[None, :], axis=1)
        tl.store(products + tile * samples + rows, shares, mask=rows < end)
