"""The budgets of this project's kernels; every exception says why."""

from __future__ import annotations

from gpu_ladder.static.checks import Budget
from gpu_ladder.static.triton_budgets import TRITON

ENDS = "ends of rows and tensors; tensors that begin at any address"
PARTIALS = "partial sums are doubles"
SCALARS = "rates and scales that lie on the device"

#: Two blocks of 256 threads, everywhere.
TWO_BLOCKS = 0.25
#: One block with a tile or a ring of strips on RTX 5090, two elsewhere.
TILES = {120: 1 / 6}
#: What moments_kernel keeps to with a tile, up to 512 rows of any type, and the most without one.
WITH_TILE, WITHOUT_TILE = 80 << 10, 32_800
#: The ring of rows that are aligned, where no tile is kept.
RING = 48 << 10
#: What accumulate_moments_kernel takes for 64 rows beside it; 512, the most, are 28 KiB more.
CHUNK_OF_64, NARROW_CHUNK_OF_64 = 12_320, 20_512

CUDA: tuple[Budget, ...] = (
    Budget(
        "moments_kernel<*with_products, aligned>",
        registers=128,
        dynamic_shared=WITH_TILE,
        occupancy=TWO_BLOCKS,
        occupancy_on=TILES,
        vector_loads=6,
        vector_stores=3,
        also_loads=(4, 2),
        also_stores=(8, 4, 2),
        why=f"{ENDS}; {PARTIALS}",
    ),
    Budget(
        "moments_kernel<*with_products>",
        registers=128,
        dynamic_shared=WITH_TILE,
        occupancy=TWO_BLOCKS,
        occupancy_on=TILES,
        vector_loads=2,
        vector_stores=3,
        also_loads=(4, 2),
        also_stores=(8, 4, 2),
        why=f"rows of G begin at any address; {ENDS}; {PARTIALS}",
    ),
    Budget(
        "moments_kernel<*aligned>",
        registers=128,
        dynamic_shared=WITHOUT_TILE + RING,
        occupancy=TWO_BLOCKS,
        occupancy_on=TILES,
        vector_loads=6,
        vector_stores=3,
        also_loads=(4, 2),
        also_stores=(8, 4, 2),
        why=f"{ENDS}; {PARTIALS}",
    ),
    Budget(
        "moments_kernel<*>",
        registers=128,
        dynamic_shared=WITHOUT_TILE,
        occupancy=TWO_BLOCKS,
        vector_loads=2,
        vector_stores=3,
        also_loads=(4, 2),
        also_stores=(8, 4, 2),
        why=f"rows of G begin at any address; {ENDS}; {PARTIALS}",
    ),
    Budget(
        "products_kernel<*aligned>",
        registers=96,
        dynamic_shared=8_192 + RING,
        occupancy=TWO_BLOCKS,
        occupancy_on=TILES,
        vector_loads=4,
        also_loads=(4, 2),
        also_stores=(8,),
        why=f"means, one column at a time; {ENDS}; {PARTIALS}",
    ),
    Budget(
        "products_kernel<*>",
        registers=128,
        dynamic_shared=8_192,
        occupancy=TWO_BLOCKS,
        vector_loads=0,
        also_loads=(4, 2),
        also_stores=(8,),
        why=f"rows of G begin at any address; {PARTIALS}",
    ),
    Budget(
        "merge_groups_kernel<*>",
        registers=64,
        occupancy=0.5,
        vector_loads=2,
        vector_stores=3,
        also_loads=(4, 2),
        also_stores=(4, 2),
        why=f"columns of the groups, a warp's side by side; {ENDS}",
    ),
    Budget(
        "accumulate_moments_kernel<float32*aligned>",
        registers=80,
        dynamic_shared=CHUNK_OF_64 + RING,
        occupancy=0.375,
        occupancy_on={80: TWO_BLOCKS, **TILES},
        vector_loads=8,
        vector_stores=1,
        also_loads=(4,),
        also_stores=(8, 4),
        why=f"{ENDS}; {PARTIALS}",
    ),
    Budget(
        "accumulate_moments_kernel<float32*>",
        registers=80,
        dynamic_shared=CHUNK_OF_64,
        occupancy=0.375,
        vector_loads=0,
        vector_stores=1,
        also_loads=(4,),
        also_stores=(8, 4),
        why=f"rows of the chunk begin at any address; {ENDS}; {PARTIALS}",
    ),
    Budget(
        "accumulate_moments_kernel<*aligned>",
        registers=128,
        dynamic_shared=NARROW_CHUNK_OF_64 + RING,
        occupancy=TWO_BLOCKS,
        occupancy_on=TILES,
        vector_loads=8,
        vector_stores=2,
        also_loads=(4, 2),
        also_stores=(8, 4),
        why=f"{ENDS}; {PARTIALS}",
    ),
    Budget(
        "accumulate_moments_kernel<*>",
        registers=128,
        dynamic_shared=NARROW_CHUNK_OF_64,
        occupancy=TWO_BLOCKS,
        vector_loads=0,
        vector_stores=2,
        also_loads=(4, 2),
        also_stores=(8, 4),
        why=f"rows of the chunk begin at any address; {ENDS}; {PARTIALS}",
    ),
    Budget(
        "sum_partials_kernel",
        registers=64,
        occupancy=0.5,
        vector_loads=0,
        also_loads=(8,),
        also_stores=(8,),
        why=f"{PARTIALS}, a warp's side by side",
    ),
    Budget(
        "adagrad_step_kernel<float32>",
        registers=80,
        occupancy=0.375,
        vector_loads=12,
        vector_stores=8,
        also_loads=(8, 4),
        also_stores=(8, 4),
        why=f"{ENDS}; {SCALARS}; {PARTIALS}",
    ),
    Budget(
        "adagrad_step_kernel<*>",
        registers=96,
        occupancy=TWO_BLOCKS,
        vector_loads=12,
        vector_stores=8,
        also_loads=(8, 4, 2),
        also_stores=(8, 2),
        why=f"{ENDS}; {SCALARS}; {PARTIALS}",
    ),
    Budget(
        "norm_kernel<*>",
        registers=64,
        occupancy=0.5,
        vector_loads=8,
        also_loads=(8, 4, 2),
        also_stores=(8,),
        why=f"{ENDS}; {SCALARS}; {PARTIALS}",
    ),
    Budget(
        "scaled_step_kernel<*>",
        registers=64,
        occupancy=0.5,
        vector_loads=8,
        vector_stores=4,
        also_loads=(8, 4, 2),
        also_stores=(4, 2),
        why=f"{ENDS}; {SCALARS}",
    ),
    Budget(
        "row_step_kernel<*>",
        registers=80,
        occupancy=0.375,
        vector_loads=4,
        vector_stores=1,
        also_loads=(8, 4, 2),
        also_stores=(8, 4, 2),
        why=f"{ENDS}; {SCALARS}; accumulators and partial sums are doubles",
    ),
    Budget(
        "accumulate_kernel",
        registers=32,
        threads=1,
        vector_loads=0,
        also_loads=(8, 4),
        also_stores=(8, 4),
        why="one thread settles the accumulator and the rate of the whole step",
    ),
)

BUDGETS = (*CUDA, *TRITON)
