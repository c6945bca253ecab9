"""Kernels over tiles of a linear layer's weight gradient, for `linear_moments`.

    h_i = (Σ_t y_it x_itᵀ, Σ_t y_it),  Σ_i h_i,  s_i = |h_i|²,  p_i = <h_i, Σ_j h_j>,

and the variance of every coordinate of h_i.

A program has a tile of OUT x IN coordinates and takes its samples one after another: the tile of
h_i grows in registers, POSITIONS of the sample at a time, is added to the sums at the sample's end
and starts again from zero. The matrix of all h_i is never there. Programs of the first tile of a
row of tiles have the bias's coordinates as well. Where there are few tiles the samples are split
among programs, and `linear_merge_kernel` adds up the splits. Of norms and products every tile
writes a share, float32, and `_sums.finish` adds the shares up in float64.

Inner products need the finished sum: a second sweep, with the same programs, multiplies each h_i
with it (`linear_inner_kernel`).

Traffic: x once for every OUT outputs, y once for every IN inputs, of which all but the first
reading comes from the device's second cache where one wave of programs holds them. Products are
FFMA (`input_precision="ieee"`): tensor cores would round float32 to ten bits. A single position is
an outer product of its own, since `tl.dot` takes no fewer than 16; from 2 to 15 positions cost as
much as 16.

The variance is pooled from deviations, one sample at a time (Welford 1962, with the sum in the
mean's place): d = v - (sum so far)/n, squares += d² n/(n-1). Splits are pooled as parts of rows
are in `_columns.py`.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import triton
import triton.language as tl


@triton.jit
def load_rows(
    rows,  # of one sample
    position_stride,
    positions,
    count,
    columns,
    features,
    VECTOR: tl.constexpr,
):
    """The values at positions x columns in float32, zero where there is nothing.

    VECTOR adjacent elements are all inside or all outside, and begin at a multiple of 16 bytes.
    """
    inside = tl.max_constancy(columns < features, [VECTOR])
    start = tl.multiple_of(positions.to(tl.int64) * position_stride, [VECTOR])
    valid = (positions < count)[:, None] & inside[None, :]
    return tl.load(rows + start[:, None] + columns[None, :], mask=valid, other=0.0).to(tl.float32)


@triton.jit
def contribution(
    inputs,  # of one sample
    grads,
    input_stride,
    grad_stride,
    count,
    ins,
    outs,
    in_features,
    out_features,
    POSITIONS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """One sample's tile of h_i, zero outside of the layer, and its share of the bias."""
    tile = tl.zeros([outs.shape[0], ins.shape[0]], tl.float32)
    grads_so_far = tl.zeros([POSITIONS, outs.shape[0]], tl.float32)
    for start in tl.range(0, count, POSITIONS, disable_licm=True):
        positions = start + tl.arange(0, POSITIONS)
        x = load_rows(inputs, input_stride, positions, count, ins, in_features, VECTOR)
        y = load_rows(grads, grad_stride, positions, count, outs, out_features, VECTOR)
        if POSITIONS == 1:
            tile += tl.trans(y) * x
        else:
            tile = tl.dot(tl.trans(y), x, tile, input_precision="ieee")
        grads_so_far += y
    # Zero times what is not finite is NaN.
    there = (outs < out_features)[:, None] & (ins < in_features)[None, :]
    return tl.where(there, tile, 0.0), tl.sum(grads_so_far, axis=0)


@triton.jit(
    do_not_specialize=[
        "input_sample_stride", "input_stride", "grad_sample_stride", "grad_stride", "samples",
        "samples_each", "positions", "in_features", "out_features", "divisor", "norms",
    ]
)  # fmt: skip
def linear_moments_kernel(
    inputs,  # [samples, positions, in_features]
    input_sample_stride,
    input_stride,
    grads,  # [samples, positions, out_features]
    grad_sample_stride,
    grad_stride,
    samples,
    samples_each,
    positions,
    in_features,
    out_features,
    weight,  # [splits, out_features, in_features]
    weight_spread,  # the same, or None
    bias,  # [splits, out_features], or None
    bias_spread,  # the same, or None
    divisor,  # of squares
    norms,  # shares [tiles, samples]
    OUT: tl.constexpr,
    IN: tl.constexpr,
    POSITIONS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Sums, squared deviations and norms of a split of the samples."""
    in_tiles = tl.maximum(tl.cdiv(in_features, IN), 1)
    tile = tl.program_id(0)
    split = tl.program_id(1)
    outs = (tile // in_tiles) * OUT + tl.arange(0, OUT)
    ins = (tile % in_tiles) * IN + tl.arange(0, IN)
    first = tile % in_tiles == 0
    total = tl.zeros([OUT, IN], tl.float32)
    squares = tl.zeros([OUT, IN], tl.float32)
    bias_total = tl.zeros([OUT], tl.float32)
    bias_squares = tl.zeros([OUT], tl.float32)
    begin = split * samples_each
    end = tl.minimum(begin + samples_each, samples)
    for sample in tl.range(begin, end, disable_licm=True):
        nth = sample - begin
        at = begin.to(tl.int64) + nth
        values, of_bias = contribution(
            inputs + tl.multiple_of(at * input_sample_stride, VECTOR),
            grads + tl.multiple_of(at * grad_sample_stride, VECTOR),
            input_stride, grad_stride, positions, ins, outs, in_features, out_features,
            POSITIONS, VECTOR,
        )  # fmt: skip
        total += values
        norm = tl.sum(values * values)
        count = (nth + 1).to(tl.float32)
        share = tl.div_rn(1.0, count)
        rate = tl.where(count > 1.0, tl.div_rn(count, tl.maximum(count - 1.0, 1.0)), 0.0)
        if weight_spread is not None:
            off = values - total * share
            squares += off * off * rate
        if bias is not None:
            bias_total += of_bias
            norm += tl.where(first, tl.sum(of_bias * of_bias, axis=0), 0.0)
            if bias_spread is not None:
                apart = of_bias - bias_total * share
                bias_squares += apart * apart * rate
        tl.store(norms + tile.to(tl.int64) * samples + at, norm)
    rows = split.to(tl.int64) * out_features + outs
    there = (outs < out_features)[:, None] & tl.max_constancy(ins < in_features, [VECTOR])[None, :]
    start = tl.multiple_of(rows * in_features, [VECTOR])
    place = start[:, None] + ins[None, :]
    tl.store(weight + place, total, mask=there)
    if weight_spread is not None:
        tl.store(weight_spread + place, tl.div_rn(squares, divisor), mask=there)
    if bias is not None:
        owned = outs < tl.where(first, out_features, 0)
        tl.store(bias + rows, bias_total, mask=owned)
        if bias_spread is not None:
            spread = tl.div_rn(bias_squares, divisor)
            tl.store(bias_spread + rows, spread, mask=owned)


@triton.jit(
    do_not_specialize=[
        "input_sample_stride", "input_stride", "grad_sample_stride", "grad_stride", "samples",
        "samples_each", "positions", "in_features", "out_features", "products",
    ]
)  # fmt: skip
def linear_inner_kernel(
    inputs,  # [samples, positions, in_features]
    input_sample_stride,
    input_stride,
    grads,  # [samples, positions, out_features]
    grad_sample_stride,
    grad_stride,
    samples,
    samples_each,
    positions,
    in_features,
    out_features,
    weight,  # [out_features, in_features]
    bias,  # [out_features], or None
    products,  # shares [tiles, samples]
    OUT: tl.constexpr,
    IN: tl.constexpr,
    POSITIONS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """The second sweep: inner products with the finished gradient."""
    in_tiles = tl.maximum(tl.cdiv(in_features, IN), 1)
    tile = tl.program_id(0)
    outs = (tile // in_tiles) * OUT + tl.arange(0, OUT)
    ins = (tile % in_tiles) * IN + tl.arange(0, IN)
    there = (outs < out_features)[:, None] & tl.max_constancy(ins < in_features, [VECTOR])[None, :]
    start = tl.multiple_of(outs.to(tl.int64) * in_features, [VECTOR])
    total = tl.load(weight + start[:, None] + ins[None, :], mask=there, other=0.0)
    begin = tl.program_id(1) * samples_each
    end = tl.minimum(begin + samples_each, samples)
    for sample in tl.range(begin, end, disable_licm=True):
        nth = sample - begin
        at = begin.to(tl.int64) + nth
        values, of_bias = contribution(
            inputs + tl.multiple_of(at * input_sample_stride, VECTOR),
            grads + tl.multiple_of(at * grad_sample_stride, VECTOR),
            input_stride, grad_stride, positions, ins, outs, in_features, out_features,
            POSITIONS, VECTOR,
        )  # fmt: skip
        product = tl.sum(values * total)
        if bias is not None:
            bias_total = tl.load(bias + outs, mask=outs < out_features, other=0.0)
            of_first = tl.sum(of_bias * bias_total, axis=0)
            product += tl.where(tile % in_tiles == 0, of_first, 0.0)
        tl.store(products + tile.to(tl.int64) * samples + at, product)


@triton.jit(do_not_specialize=["count", "samples", "samples_each", "splits"])
def linear_merge_kernel(
    sums,  # [splits, count]
    squares,  # the same, or None
    count,
    splits,
    samples,
    samples_each,
    total,  # [count]
    variance,  # [count], or None
    BLOCK: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """Pools the splits in their order."""
    columns = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = tl.max_constancy(columns < count, [VECTOR])
    sum_so_far = tl.load(sums + columns, mask=inside, other=0.0)
    if squares is not None:
        spread = tl.load(squares + columns, mask=inside, other=0.0)
    for split in range(1, splits):
        start = tl.multiple_of(count.to(tl.int64) * split, VECTOR)
        others = tl.load(sums + start + columns, mask=inside, other=0.0)
        if squares is not None:
            before = (samples_each * split).to(tl.float32)
            more = tl.minimum(samples - samples_each * split, samples_each).to(tl.float32)
            apart = tl.div_rn(others, more) - tl.div_rn(sum_so_far, before)
            spread += tl.load(squares + start + columns, mask=inside, other=0.0)
            spread += apart * apart * (before * tl.div_rn(more, before + more))
        sum_so_far += others
    tl.store(total + columns, sum_so_far, mask=inside)
    if squares is not None:
        tl.store(variance + columns, tl.div_rn(spread, (samples - 1).to(tl.float32)), mask=inside)
