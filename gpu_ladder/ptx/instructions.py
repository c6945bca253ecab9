"""The table of every instruction and modifier that the machine knows.

Whatever no row allows is an error. The rows are in `arithmetic_instructions`,
`conversion_instructions`, `memory_instructions` and `warp_instructions`.
"""

from __future__ import annotations

from gpu_ladder.ptx.arithmetic_instructions import ARITHMETIC_ROWS
from gpu_ladder.ptx.attributes import FAMILIES
from gpu_ladder.ptx.conversion_instructions import CONVERSION_ROWS
from gpu_ladder.ptx.memory_instructions import MEMORY_ROWS
from gpu_ladder.ptx.table import TYPE_BITS, Row
from gpu_ladder.ptx.warp_instructions import WARP_ROWS

ROWS: tuple[Row, ...] = (
    *ARITHMETIC_ROWS,
    *CONVERSION_ROWS,
    *MEMORY_ROWS,
    *WARP_ROWS,
)

# Modifiers that change no result of the machine.
NEUTRAL = frozenset(
    (
        # Approximate instructions are evaluated more precisely than they have to be.
        *("approx", "full", "uni"),
        # One block is resident at a time, so that all scopes and all fences are the widest.
        *("gl", "sc", "cta"),
        # What is not even begun needs no place in a cache.
        *("L1", "L2", "L2::evict_first", "L2::evict_last", "L2::evict_normal"),
        *("L2::evict_unchanged", "launch_dependents", "wait", "shared::cluster"),
    )
)


def _check(rows: tuple[Row, ...]) -> None:
    """Refuses a table in which a choice of modifiers would make no difference by mistake."""
    for row in rows:
        known = FAMILIES[row.family]
        for slot in row.slots:
            free = slot.optional or len(slot.choices) > 1
            for choice in slot.choices:
                if not (
                    not free
                    or slot.hint
                    or slot.name
                    or choice in NEUTRAL
                    or choice in TYPE_BITS
                    or choice in known
                ):
                    raise ValueError(
                        f"instruction table: {choice!r} of {row.syntax!r} has no effect"
                    )


_check(ROWS)

# Instructions that exist, and that no row will ever take by accident: what their names begin with.
KNOWN_MISSING: tuple[str, ...] = (
    "wgmma.",
    "tcgen05.",
    "cp.async.bulk",
    "cp.async.mbarrier",
    "cp.reduce.async",
    "mbarrier.",
    "tensormap.",
    "multimem.",
    "fence.proxy",
    "fence.mbarrier_init",
    "barrier.cluster",
    "setmaxnreg.",
    "clusterlaunchcontrol.",
    "wmma.",
    "tex.",
    "tld4.",
    "suld.",
    "sust.",
    "sured.",
)
