"""The budgets of this project's Triton kernels, by the names that their listing gives them."""

from __future__ import annotations

from gpu_ladder.static.checks import Budget

ENDS = "a last tile that is not whole has a loop of its own"
COLUMNS = "an element of a column to each thread, a warp's side by side"
TABLES = "scalars and tables of tensors lie on the device"
PARTIALS = "partial sums"

TRITON: tuple[Budget, ...] = (
    Budget(
        "* unaligned*",
        registers=255,
        occupancy=0.125,
        vector_loads=0,
        also_loads=(8, 4, 2),
        also_stores=(8, 4, 2),
        narrow_shared=True,
        why="tensors and rows that begin at any address: no access may be wider than an element",
    ),
    Budget(
        "accumulate_moments *",
        registers=144,
        occupancy=0.1875,
        vector_loads=4,
        also_loads=(4,),
        also_stores=(4,),
        why=f"{COLUMNS}; {PARTIALS}",
    ),
    Budget(
        "whole *",
        registers=160,
        occupancy=0.125,
        vector_loads=8,
        also_loads=(8, 4, 2),
        also_stores=(8, 4, 2),
        why=COLUMNS,
    ),
    Budget(
        "pool *",
        registers=168,
        occupancy=0.1875,
        vector_loads=8,
        also_loads=(8, 4),
        also_stores=(4,),
        why=COLUMNS,
    ),
    Budget(
        "products *",
        registers=80,
        occupancy=0.375,
        vector_loads=8,
        also_loads=(4,),
        also_stores=(4,),
        why=f"means, {COLUMNS}; {PARTIALS}",
    ),
    Budget(
        "merge *",
        registers=80,
        occupancy=0.375,
        vector_loads=8,
        also_loads=(4, 2),
        also_stores=(4, 2),
        why=COLUMNS,
    ),
    Budget(
        "adagrad_step *",
        registers=128,
        occupancy=0.25,
        vector_loads=6,
        vector_stores=4,
        also_loads=(4, 2),
        also_stores=(4, 2),
        why=f"{ENDS}; {TABLES}; {PARTIALS}",
    ),
    Budget(
        "squares *",
        registers=80,
        occupancy=0.375,
        vector_loads=4,
        also_loads=(4, 2),
        also_stores=(4,),
        why=f"{ENDS}; {PARTIALS}",
    ),
    Budget(
        "move *",
        registers=96,
        occupancy=0.3125,
        vector_loads=4,
        vector_stores=2,
        also_loads=(4, 2),
        also_stores=(4, 2),
        why=f"{ENDS}; {TABLES}",
    ),
    Budget(
        "row_squares *",
        registers=80,
        occupancy=0.375,
        vector_loads=4,
        also_stores=(4,),
        why=PARTIALS,
    ),
    Budget(
        "row_move *",
        registers=64,
        occupancy=0.5,
        vector_loads=4,
        vector_stores=2,
        also_loads=(4,),
        why=TABLES,
    ),
    Budget(
        "*accumulate *",
        registers=160,
        occupancy=0.1875,
        vector_loads=0,
        also_loads=(8, 4),
        also_stores=(8, 4),
        why=f"accumulators are doubles; {PARTIALS}; few of them",
    ),
    Budget(
        "add_*",
        registers=48,
        occupancy=0.5,
        vector_loads=0,
        also_loads=(8, 4),
        also_stores=(8,),
        why=f"{PARTIALS}, a warp's side by side; few of them",
    ),
)
