"""Rows of an embedding that samples looked up: their gradient, and the samples' contributions.

    h_iv = Σ_{t: n_it = v} y_it,  W_v = Σ_i h_iv,  s_i = Σ_v |h_iv|²,  p_i = Σ_v <h_iv, W_v>

Positions are sorted by row and sample, so that what adds up lies side by side: a run is one row of
one sample, and a row's runs follow one another. Two kernels, each with strips of features:

* `run_sums_kernel`: a program has a run, whose output gradients it adds up, and writes the sum and
  its share of the sample's norm.
* `row_moments_kernel`: a program has a row of the weight with all its runs, and writes their sum,
  their variance around its mean, where samples without a run have zeros, and each run's share of a
  product. Where these are wanted, it reads the runs a second time.

There are as many programs as there can be runs, and those without one end at once: how many there
are, nobody waits to hear. Shares are float32, at a place of the run's first position, so that
`_sums.finish` adds a sample's up in float64 and in the order of its positions.

Traffic: output gradients once; 4 bytes per position and feature for the sums of runs, written once
and read once or, from the cache, twice; the weight's gradient and variance, written once.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import torch
import triton
import triton.language as tl
from torch import Tensor

from adadagrad_kernels.backends.outputs import LayerMoments
from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels._segments import numbered, starts
from adadagrad_kernels.backends.triton.kernels._sums import finish

#: Positions of a run, or runs of a row, at a time; features; warps.
ROWS, COLUMNS, WARPS = 8, 256, 4
#: Of so many runs a sum of its own is taken, so that rounding hardly grows with their number.
STRETCH = 32 * ROWS


@triton.jit
def place_of(position, samples, positions, strip):
    """Where the share of a sample's position is, in ``[strips, positions, samples]``."""
    sample = position // positions
    return (strip * positions + position - sample * positions) * samples + sample


@triton.jit(do_not_specialize=["sample_stride", "position_stride", "samples", "positions",
                               "features", "padding", "sums", "norms"])  # fmt: skip
def run_sums_kernel(
    grads,  # [samples, positions, features]
    sample_stride,
    position_stride,
    samples,
    positions,
    features,
    order,  # [samples * positions], the positions sorted
    first,  # where runs begin in that order, [samples * positions + 1]
    sorted_rows,  # the weight's row of each, in that order
    padding,  # a row that gets nothing, or -1
    sums,  # [samples * positions, features]
    norms,  # shares [strips, positions, samples], zeros before
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """The sum of a run."""
    run = tl.program_id(0).to(tl.int64)
    strip = tl.program_id(1)
    begin = tl.load(first + run)
    end = tl.load(first + run + 1)
    row = tl.load(sorted_rows + begin, mask=begin < end, other=0)
    if (begin < end) & (row != padding):
        columns = strip * COLUMNS + tl.arange(0, COLUMNS)
        inside = tl.max_constancy(columns < features, [VECTOR])
        total = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in tl.range(begin, end, ROWS, disable_licm=True):
            which = start + tl.arange(0, ROWS)
            present = which < end
            position = tl.load(order + which, mask=present, other=0)
            sample = position // positions
            place = sample * sample_stride + (position - sample * positions) * position_stride
            place = tl.multiple_of(place, [VECTOR])[:, None] + columns[None, :]
            valid = present[:, None] & inside[None, :]
            total += tl.load(grads + place, mask=valid, other=0.0).to(tl.float32)
        found = tl.sum(total, axis=0)
        tl.store(sums + run * features + columns, found, mask=inside)
        place = place_of(tl.load(order + begin), samples, positions, strip.to(tl.int64))
        tl.store(norms + place, tl.sum(found * found, axis=0))


@triton.jit(do_not_specialize=["samples", "positions", "features", "padding", "products"])
def row_moments_kernel(
    sums,  # [samples * positions, features], of the runs
    first,  # where runs begin, [samples * positions + 1]
    order,  # [samples * positions]
    first_run,  # of each row of the weight, [rows + 1]
    samples,
    positions,
    features,
    padding,
    weight_grad,  # [rows, features]
    variance,  # the same, or None
    products,  # shares [strips, positions, samples], zeros before; or None
    ROWS: tl.constexpr,
    STRETCH: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """A row of the weight."""
    row = tl.program_id(0).to(tl.int64)
    strip = tl.program_id(1)
    columns = strip * COLUMNS + tl.arange(0, COLUMNS)
    inside = tl.max_constancy(columns < features, [VECTOR])
    begin = tl.load(first_run + row)
    end = tl.load(first_run + row + 1)
    if row == padding:
        end = begin
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for stretch in tl.range(begin, end, STRETCH, disable_licm=True):
        part = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in tl.range(stretch, min(stretch + STRETCH, end), ROWS, disable_licm=True):
            runs = start + tl.arange(0, ROWS)
            valid = (runs < end)[:, None] & inside[None, :]
            place = tl.multiple_of(runs * features, [VECTOR])[:, None] + columns[None, :]
            part += tl.load(sums + place, mask=valid, other=0.0)
        total += part
    gradient = tl.sum(total, axis=0)
    tl.store(weight_grad + row * features + columns, gradient, mask=inside)
    if variance is not None or products is not None:
        mean = tl.div_rn(gradient, samples.to(tl.float32))
        spread = tl.zeros([ROWS, COLUMNS], tl.float32)
        for start in tl.range(begin, end, ROWS, disable_licm=True):
            runs = start + tl.arange(0, ROWS)
            present = runs < end
            valid = present[:, None] & inside[None, :]
            place = tl.multiple_of(runs * features, [VECTOR])[:, None] + columns[None, :]
            values = tl.load(sums + place, mask=valid, other=0.0)
            away = tl.where(valid, values - mean[None, :], 0.0)
            spread += away * away
            if products is not None:
                along = tl.sum(tl.where(valid, values * gradient[None, :], 0.0), axis=1)
                head = tl.load(first + runs, mask=present, other=0)
                position = tl.load(order + head, mask=present, other=0)
                share = place_of(position, samples, positions, strip.to(tl.int64))
                tl.store(products + share, along, mask=present)
        if variance is not None:
            # The samples that did not look the row up have zeros there.
            others = (samples - (end - begin)).to(tl.float32)
            squares = tl.sum(spread, axis=0) + mean * mean * others
            found = tl.div_rn(squares, (samples - 1).to(tl.float32))
            tl.store(variance + row * features + columns, found, mask=inside)


def embedding_moments(
    indices: Tensor,
    grad_outputs: Tensor,
    num_embeddings: int,
    padding_idx: int,
    variance: bool,
    inner_products: bool,
) -> LayerMoments:
    """See `backends.reference.embedding_moments`."""
    samples, positions, features = grad_outputs.shape
    if grad_outputs.stride(2) != 1:
        grad_outputs = grad_outputs.contiguous()
    shape = (num_embeddings, features)
    moments = LayerMoments.empty(grad_outputs, shape, None, variance, inner_products)
    device = indices.device
    owners = torch.arange(samples, device=device).unsqueeze(1)
    keys, order = (indices.long() * samples + owners).flatten().sort(stable=True)
    run = numbered(keys)
    first = starts(run)
    # The run at which each row's begin: after the last one there is another.
    edges = torch.arange(num_embeddings + 1, device=device) * samples
    first_run = torch.cat([run, run[-1:] + 1])[torch.searchsorted(keys, edges)]
    strips = triton.cdiv(features, COLUMNS)
    sums = torch.empty(len(keys), features, dtype=torch.float32, device=device)
    shares = torch.zeros(
        1 + inner_products, strips * positions, samples, dtype=torch.float32, device=device
    )
    vector = 16 // grad_outputs.element_size()
    apart = all(stride % vector == 0 for stride in (*grad_outputs.stride()[:2], features))
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    launch(
        run_sums_kernel,
        (len(keys), strips),
        (grad_outputs, *grad_outputs.stride()[:2], samples, positions, features, order, first,
         keys // samples, padding_idx, sums, shares[0]),
        {**constants, "VECTOR": vector if apart else 1},
        WARPS,
    )  # fmt: skip
    launch(
        row_moments_kernel,
        (num_embeddings, strips),
        (sums, first, order, first_run, samples, positions, features, padding_idx,
         moments.weight_grad, moments.weight_variance, shares[1] if inner_products else None),
        {**constants, "STRETCH": STRETCH, "VECTOR": 4 if features % 4 == 0 else 1},
        WARPS,
    )  # fmt: skip
    finish(shares, tuple(t for t in (moments.sq_norms, moments.inner_products) if t is not None))
    return moments
