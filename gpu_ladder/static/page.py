"""Writes what the gate found as one page of tables that line up in the source too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gpu_ladder.static.checks import Budget, budget_of, fits
from gpu_ladder.static.facts import Kernel, Widths
from gpu_ladder.static.occupancy import DEVICES

Variants = Sequence[Kernel]  # one kernel, as compiled for each architecture

HEAD = """\
# GPU kernels: what the compilers make of them

Executed at PTX level on a CPU; not yet run on a GPU. Every figure here was read from compiled code
or calculated from it: the resources that a kernel takes and the width of its memory accesses. None
says how fast a kernel is.

`make gpu-static` compiles every kernel for every architecture and writes this page. CI compiles
them again for sm_90, and `make gpu-nightly` for all, compares the result with this page and checks
every kernel against its budget. Compilers:
{versions}.

## How to read the tables

A single number holds for all architectures: {architectures}.
Where they differ, the numbers stand in this order: 40/40/46/46.

* **Spills**: bytes of stack, then stores to and loads from local memory. No kernel may spill.
* **Shared**: bytes per block, static + dynamic. The dynamic part is what Triton asks for, or what a
  typical launch asks for.
* **Blocks, occupancy**: the blocks that fit on one multiprocessor of
  {devices}, and the share of its threads that they fill, by the rules of the CUDA
  header cuda_occupancy.h.
* **Loads and stores**: *count* x *bytes per thread*, counted in the machine code and not over a
  run. 16 bytes is the widest access. Narrower ones beside it serve the ends of rows, and tensors at
  unaligned addresses.
* **Fused**: `as written` where the compiler fuses products and sums only where the source does;
  otherwise how many it was free to fuse.
"""

#: Before the table of traffic.
BYTES = """\
## Bytes

Bytes that a kernel moves to and from device memory, counted while its PTX is executed on a CPU,
beside the least that its task needs. A request is one instruction of one warp; a sector is 32
bytes. A full request of 16-byte accesses is 16 sectors, one of 4-byte accesses is 4.
"""

#: Before the table of budgets.
BUDGETS = """\
## Budgets

Every kernel: no spills, at most 48 KiB of static shared memory, no access whose address space the
compiler does not know, no atomics on floating-point numbers, sums and products fused as written.
`*` matches any characters, and the first line that matches a kernel applies. Registers are the most
allowed, occupancy the least. Loads and stores: the fewest of 16 bytes, and the widths that are
allowed beside them.
"""


def page(
    kernels: Sequence[Kernel],
    budgets: Sequence[Budget],
    versions: Mapping[str, str],
    absent: Mapping[str, str],
    traffic: Sequence[Mapping[str, Any]] | None,
) -> str:
    """The whole page.

    Args:
        kernels: what the gate found.
        budgets: what they are held against.
        versions: of each compiler.
        absent: groups of kernels that could not be looked at, and why.
        traffic: counted bytes, if they were counted.
    """
    architectures = sorted({kernel.architecture for kernel in kernels})
    devices = [DEVICES[a].name for a in architectures if a in DEVICES]
    parts = [
        HEAD.format(
            versions=", ".join(f"{name} {version}" for name, version in versions.items()),
            architectures=", ".join(f"sm_{a}" for a in architectures),
            devices=", ".join(devices),
        )
    ]
    for group in sorted({kernel.group for kernel in kernels}):
        found = _variants(kernel for kernel in kernels if kernel.group == group)
        parts += [f"## {group}\n", _resources(found, budgets), _accesses(found)]
    parts += [f"## {group}\n\nNot looked at: {reason}.\n" for group, reason in absent.items()]
    parts += [_bytes(traffic), _budgets(budgets)]
    return "\n".join(parts)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """A table whose columns line up; those from the ``right``-th on to the right, if not 0."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    rule = ["-" * w if not right or c < right else "-" * (w - 1) + ":"
            for c, w in enumerate(widths)]  # fmt: skip
    aligned = [
        [
            text.ljust(width) if not right or column < right else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    lines = [aligned[0], rule, *aligned[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _variants(kernels: Iterable[Kernel]) -> list[Variants]:
    by_name: dict[str, list[Kernel]] = {}
    for kernel in sorted(kernels, key=lambda kernel: (kernel.name, kernel.architecture)):
        by_name.setdefault(kernel.name, []).append(kernel)
    return list(by_name.values())


def _each(variants: Variants, say: Callable[[Kernel], object]) -> str:
    """What ``say`` says of each architecture; once, where it is the same for all."""
    said = [str(say(kernel)) for kernel in variants]
    return said[0] if len(set(said)) == 1 else "/".join(said)


def _resources(found: Iterable[Variants], budgets: Sequence[Budget]) -> str:
    def shared(kernel: Kernel) -> str:
        budget = budget_of(kernel, budgets)
        dynamic = kernel.dynamic_shared_bytes or (budget.dynamic_shared if budget else 0)
        static = kernel.resources.static_shared_bytes
        return f"{static} + {dynamic}" if dynamic else str(static)

    def threads(kernel: Kernel) -> str:
        budget = budget_of(kernel, budgets)
        return str(kernel.threads or (budget.threads if budget else None) or "?")

    def blocks(kernel: Kernel) -> str:
        held = fits(kernel, budget_of(kernel, budgets))
        return str(held.blocks) if held else "?"

    def share(kernel: Kernel) -> str:
        held = fits(kernel, budget_of(kernel, budgets))
        return f"{held.share:.1%}".replace(".0%", "%") if held else "?"

    def spills(kernel: Kernel) -> str:
        code = kernel.instructions
        if not kernel.spills:
            return "none"
        return f"{kernel.resources.stack_bytes} B, {code.local_stores} + {code.local_loads}"

    columns: list[Callable[[Kernel], object]] = [
        threads, lambda kernel: kernel.resources.registers, spills, shared, blocks, share,
    ]  # fmt: skip
    rows = [[f"`{v[0].name}`", *(_each(v, column) for column in columns)] for v in found]
    head = ["kernel", "threads", "registers", "spills", "shared", "blocks", "occupancy"]
    return markdown(head, rows, right=1)


def _accesses(found: Iterable[Variants]) -> str:
    def atomics(kernel: Kernel) -> str:
        kinds = {"float": kernel.ptx.float_atomics, "integer": kernel.ptx.integer_atomics}
        return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count) or "none"

    rows = [
        [
            f"`{v[0].name}`",
            _widths([kernel.instructions.global_loads for kernel in v]),
            _widths([kernel.instructions.global_stores for kernel in v]),
            _widths([kernel.instructions.shared_loads for kernel in v]),
            _widths([kernel.instructions.shared_stores for kernel in v]),
            _each(v, atomics),
            _each(v, lambda kernel: kernel.instructions.matrix or "none"),
            _each(v, lambda kernel: kernel.ptx.contractible or "as written"),
        ]
        for v in found
    ]
    head = ["kernel", "global loads", "global stores", "shared loads", "shared stores", "atomics",
            "mma", "fused"]  # fmt: skip
    return markdown(head, rows)


def _widths(variants: Sequence[Widths]) -> str:
    """``6 x 16, 4/4/8/8 x 4``: instructions of each width, by architecture where they differ."""
    parts = []
    for width in sorted({width for counts in variants for width in counts}, reverse=True):
        counts = [str(widths.get(width, 0)) for widths in variants]
        text = counts[0] if len(set(counts)) == 1 else "/".join(counts)
        parts.append(f"{text} x {width}")
    return ", ".join(parts) or "none"


def _bytes(traffic: Sequence[Mapping[str, Any]] | None) -> str:
    if not traffic:
        return BYTES + "\nNot counted yet.\n"
    rows = [
        [
            f"`{row['kernel']}`",
            str(row["case"]),
            str(row["architecture"]),
            f"{row['least_bytes']:,}",
            f"{row['moved_bytes']:,}",
            f"{row['moved_bytes'] / row['least_bytes'] - 1:+.1%}" if row["least_bytes"] else "",
            f"{row['sectors_per_request_loads']:.2f}",
            f"{row['sectors_per_request_stores']:.2f}",
        ]
        for row in sorted(
            traffic, key=lambda row: (row["kernel"], str(row["case"]), str(row["architecture"]))
        )
    ]
    head = ["kernel", "case", "architecture", "least bytes", "moved bytes", "over",
            "sectors per load", "sectors per store"]  # fmt: skip
    return f"{BYTES}\n{markdown(head, rows, right=3)}"


def _budgets(budgets: Sequence[Budget]) -> str:
    def widths(also: tuple[int, ...], fewest: int) -> str:
        beside = f" and {', '.join(str(width) for width in also)}" if also else ""
        return f"{fewest} x 16{beside}"

    def floors(budget: Budget) -> str:
        each = [budget.occupancy_on.get(a, budget.occupancy) for a in sorted(DEVICES)]
        said = [f"{floor:.1%}".replace(".0%", "%") for floor in each]
        return said[0] if len(set(said)) == 1 else "/".join(said)

    rows = [
        [
            f"`{b.kernels}`",
            str(b.registers),
            floors(b),
            widths(b.also_loads, b.vector_loads),
            widths(b.also_stores, b.vector_stores),
            b.why,
        ]
        for b in budgets
    ]
    head = ["kernels", "registers", "occupancy", "loads", "stores", "exceptions because"]
    return f"{BUDGETS}\n{markdown(head, rows)}"
