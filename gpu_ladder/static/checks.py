"""Holds kernels against budgets: what a budget is, and what broke which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from gpu_ladder.static.facts import Kernel, Widths
from gpu_ladder.static.occupancy import DEVICES, Occupancy, occupancy

#: Bytes of static shared memory that any launch may use without asking.
STATIC_SHARED = 48 * 1024
VECTOR = 16


@dataclass(frozen=True)
class Budget:
    """What a kernel may take, and what it must do.

    Attributes:
        kernels: the names it holds for, with ``*`` for any characters.
        registers: the most of one thread.
        threads: of a block, where the kernel itself does not say.
        static_shared: the most bytes of a block.
        dynamic_shared: bytes that a launch asks for on top; counts for occupancy.
        occupancy: the least share of a multiprocessor's threads, on every device.
        occupancy_on: the same for single architectures, where it differs.
        also_loads: bytes of loads from device memory that are allowed beside 16.
        also_stores: bytes of stores to device memory that are allowed beside 16.
        vector_loads: the fewest 16-byte loads from device memory.
        vector_stores: the fewest 16-byte stores to it.
        narrow_shared: whether shared memory may be read or written by less than 4 bytes.
        float_atomics: whether floating-point atomics are allowed.
        contraction: whether the compiler may fuse products and sums.
        why: the reason for every exception among these.
    """

    kernels: str
    registers: int
    threads: int | None = None
    static_shared: int = STATIC_SHARED
    dynamic_shared: int = 0
    occupancy: float = 0.0
    occupancy_on: Mapping[int, float] = field(default_factory=dict)
    also_loads: tuple[int, ...] = ()
    also_stores: tuple[int, ...] = ()
    vector_loads: int = 1
    vector_stores: int = 0
    narrow_shared: bool = False
    float_atomics: bool = False
    contraction: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        exceptions = (self.also_loads, self.also_stores, not self.vector_loads, self.narrow_shared,
                      self.float_atomics, self.contraction)  # fmt: skip
        if any(exceptions) and not self.why:
            raise ValueError(
                f"the budget for {self.kernels!r} makes exceptions and gives no reason; accepted "
                "are exceptions with a sentence in `why`"
            )


@dataclass(frozen=True)
class Violation:
    """One kernel over one budget on one architecture."""

    kernel: str
    architecture: int
    budget: str
    found: str
    allowed: str


def budget_of(kernel: Kernel, budgets: Iterable[Budget]) -> Budget | None:
    """The first budget that the kernel's name matches."""
    return next((b for b in budgets if fnmatchcase(kernel.name, b.kernels)), None)


def fits(kernel: Kernel, budget: Budget | None) -> Occupancy | None:
    """What a multiprocessor holds of it; None where the size of its blocks is not known."""
    threads = kernel.threads or (budget.threads if budget else None)
    device = DEVICES.get(kernel.architecture)
    if threads is None or device is None:
        return None
    dynamic = kernel.dynamic_shared_bytes or (budget.dynamic_shared if budget else 0)
    return occupancy(
        device,
        threads=threads,
        registers=kernel.resources.registers,
        shared_bytes=kernel.resources.static_shared_bytes + dynamic,
    )


def check(kernels: Sequence[Kernel], budgets: Sequence[Budget]) -> list[Violation]:
    """Everything that is over budget, has none, or is a budget for nothing."""
    found: list[Violation] = []
    used: list[Budget] = []
    for kernel in kernels:
        budget = budget_of(kernel, budgets)
        if budget is None:
            broken = [("a budget", "none", "every kernel has one")]
        else:
            used.append(budget)
            broken = list(_broken(kernel, budget))
        found += [Violation(kernel.name, kernel.architecture, *what) for what in broken]
    stale = [budget for budget in budgets if budget not in used]
    found += [Violation(b.kernels, 0, "a kernel", "none", "every budget has one") for b in stale]
    return found


def table(violations: Iterable[Violation]) -> str:
    """The violations, a line each; those that several architectures share are one."""
    rows: dict[tuple[str, str, str, str], list[str]] = {}
    for v in violations:
        where = rows.setdefault((v.kernel, v.budget, v.found, v.allowed), [])
        where += [f"sm_{v.architecture}"] if v.architecture else []
    cells = [("kernel", "architectures", "budget", "found", "allowed")]
    cells += [(k, " ".join(where), b, f, a) for (k, b, f, a), where in rows.items()]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def _broken(kernel: Kernel, budget: Budget) -> Iterator[tuple[str, str, str]]:
    taken, code, ptx = kernel.resources, kernel.instructions, kernel.ptx
    if kernel.spills:
        counts = f"{taken.stack_bytes} B of stack, {code.local_stores} STL, {code.local_loads} LDL"
        yield "spills", counts, "none"
    if taken.registers > budget.registers:
        yield "registers", str(taken.registers), f"{budget.registers}"
    if taken.static_shared_bytes > budget.static_shared:
        yield "static shared", f"{taken.static_shared_bytes} B", f"{budget.static_shared} B"
    yield from _widths("global loads", code.global_loads, budget.also_loads)
    yield from _widths("global stores", code.global_stores, budget.also_stores)
    if not code.bulk_copies:
        yield from _vectors("16-byte loads", code.global_loads, budget.vector_loads)
        yield from _vectors("16-byte stores", code.global_stores, budget.vector_stores)
    narrow = sorted({width for width in (*code.shared_loads, *code.shared_stores) if width < 4})
    if narrow and not budget.narrow_shared:
        yield "shared accesses", _bytes(narrow), "4 B and wider"
    if code.generic:
        yield "generic accesses", str(code.generic), "none: the space is known"
    if ptx.float_atomics and not budget.float_atomics:
        yield "float atomics", str(ptx.float_atomics), "none: sums have a fixed order"
    if ptx.contractible and not budget.contraction:
        yield "contraction", f"{ptx.contractible} without a rounding", "fused where fmaf says so"
    held = fits(kernel, budget)
    floor = budget.occupancy_on.get(kernel.architecture, budget.occupancy)
    if held is None:
        yield "threads", "not known", "__launch_bounds__, or the budget's threads"
    elif held.share < floor:
        limits = " and ".join(held.limits)
        yield "occupancy", f"{held.share:.1%}, by {limits}", f"at least {floor:.1%}"


def _widths(what: str, found: Widths, also: tuple[int, ...]) -> Iterator[tuple[str, str, str]]:
    allowed = {VECTOR, *also}
    wrong = {width: count for width, count in found.items() if width not in allowed}
    if wrong:
        counts = ", ".join(f"{count} x {width} B" for width, count in wrong.items())
        yield what, counts, _bytes(sorted(allowed, reverse=True))


def _vectors(what: str, found: Widths, fewest: int) -> Iterator[tuple[str, str, str]]:
    count = found.get(VECTOR, 0)
    if count < fewest:
        yield what, str(count), f"{fewest} or more"


def _bytes(widths: Iterable[int]) -> str:
    return ", ".join(f"{width} B" for width in widths)
