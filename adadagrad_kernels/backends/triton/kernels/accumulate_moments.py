"""A chunk of rows added to the running sum and squared deviations of the rows before it.

    sum += Σ_i h_i,  s_i = |h_i|²,  squares += q + (m - sum/n)² n r / (n + r)

for r rows with mean m and squared deviations q from it, after n rows (Chan, Golub, LeVeque 1983).

A program has a tile of columns, whose sum and squares it reads, keeps in registers while ROWS rows
after ROWS rows are pooled with them, and writes. The chunk is read once. Of the norms it writes its
own share, float32, to a place of its own, and `_sums.finish` adds the shares up in float64.

Traffic: the elements of the chunk, and 8 bytes of each column for the sum and the squares each, 4
where n = 0; the shares are 4 bytes for each row of a tile, written and read.

Values outside of the chunk enter as zeros and are taken out again of what they would change; what
is not finite stays in its column and row.
"""

# Constants of a kernel are in capitals.
# ruff: noqa: N803

import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels._columns import load_tile
from adadagrad_kernels.backends.triton.kernels._sums import finish

#: Rows and columns of a tile. The first leaves a thread all rows of its columns, and 32 elements to
#: wait for at once; the second is for many rows of few columns, whose tiles would be fewer than so
#: many programs.
WIDE, TALL = (4, 1024), (128, 64)
PROGRAMS = 64
WARPS = 4


@triton.jit(do_not_specialize=["row_stride", "rows", "features", "before", "norms"])
def accumulate_moments_kernel(
    chunk,  # [rows, features]
    row_stride,
    rows,
    features,
    before,  # rows
    total,  # [features]: the sum
    squares,  # [features], or None
    norms,  # shares [tiles, rows]
    BEGINS: tl.constexpr,  # there are none before
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """All rows of a tile of columns.

    There may be fewer columns than threads, and several threads load what one of them stores: the
    barrier keeps the loads of all before the stores.
    """
    tile = tl.program_id(0).to(tl.int64)
    columns = tile * COLUMNS + tl.arange(0, COLUMNS)
    inside = tl.max_constancy(columns < features, [VECTOR])
    sum_so_far = tl.zeros([COLUMNS], tl.float32)
    spread = tl.zeros([COLUMNS], tl.float32)
    if not BEGINS:
        sum_so_far = tl.load(total + columns, mask=inside, other=0.0)
        if squares is not None:
            spread = tl.load(squares + columns, mask=inside, other=0.0)
        tl.debug_barrier()
    count = before.to(tl.float32)
    for start in tl.range(0, rows, ROWS, disable_licm=True):
        which = start + tl.arange(0, ROWS)
        present = which < rows
        values = load_tile(chunk, row_stride, which, columns, rows, features, VECTOR)
        tl.store(norms + tile * rows + which, tl.sum(values * values, axis=1), mask=present)
        added = tl.sum(values, axis=0)
        if squares is not None:
            more = tl.minimum(rows - start, ROWS).to(tl.float32)
            center = tl.div_rn(added, more)
            away = tl.where(present[:, None], values - center[None, :], 0.0)
            # An infinite distance times a weight of zero would be NaN: of no rows there is none.
            apart = center - tl.div_rn(sum_so_far, tl.maximum(count, 1.0))
            weight = count * tl.div_rn(more, count + more)
            pooled = tl.where(count > 0.0, apart * apart * weight, 0.0)
            spread += tl.sum(away * away, axis=0) + pooled
            count += more
        sum_so_far += added
    tl.store(total + columns, sum_so_far, mask=inside)
    if squares is not None:
        tl.store(squares + columns, spread, mask=inside)


def accumulate_moments_(
    sum: Tensor, squares: Tensor | None, sq_norms: Tensor, chunk: Tensor, samples: int
) -> None:
    """See `backends.reference.accumulate_moments_`."""
    count, features = chunk.shape
    if features == 0:
        sq_norms.zero_()
        return
    few = count >= TALL[0] and features < PROGRAMS * WIDE[1]
    rows, columns = TALL if few else WIDE
    tiles = triton.cdiv(features, columns)
    vector = 16 // chunk.element_size()
    shares = sum.new_empty(1, tiles, count)
    launch(
        accumulate_moments_kernel,
        (tiles,),
        (chunk, chunk.stride(0), count, features, samples, sum, squares, shares),
        {
            "BEGINS": samples == 0,
            "ROWS": rows,
            "COLUMNS": columns,
            "VECTOR": vector if chunk.stride(0) % vector == features % vector == 0 else 1,
        },
        WARPS,
    )
    finish(shares, (sq_norms,))
    increment_version([sum, sq_norms] if squares is None else [sum, squares, sq_norms])
