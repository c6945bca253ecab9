"""What a check found, as it goes from process to process and to who asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpu_ladder.check.launches import Launch
from gpu_ladder.check.memory import wrong_numbers


@dataclass(frozen=True)
class Found:
    """One thing that is wrong.

    Args:
        kind: ``race``, ``out_of_bounds``, ``uninitialised``, ``misaligned``, ``numbers``,
            ``narrow``, ``wasted_traffic``, ``divergent_barrier``, ``divergent_collective``,
            ``deadlock``, ``launch`` or ``crash``.
        launch: which.
        message: what happened.
        site: where, as ``file:line``, or which argument; empty where it is of the whole launch.
        orders: of threads and blocks, in which it was found.
    """

    kind: str
    launch: str
    message: str
    site: str = ""
    orders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Moved:
    """What the accesses of one line moved, in one launch; a sector is 32 bytes."""

    launch: str
    site: str
    space: str
    write: bool
    access_bytes: int
    requests: int
    bytes: int
    sectors: int
    ideal_sectors: int


@dataclass
class RungResult:
    """What one rung said of all launches."""

    rung: str
    launches: list[str] = field(default_factory=list)
    findings: list[Found] = field(default_factory=list)
    traffic: list[Moved] = field(default_factory=list)

    def add(self, kind: str, launch: str, message: str, site: str, order: str) -> None:
        """A finding; the same thing in another order adds that order alone."""
        for place, known in enumerate(self.findings):
            if (known.kind, known.launch, known.site) == (kind, launch, site):
                orders = tuple(dict.fromkeys((*known.orders, order)))
                self.findings[place] = Found(kind, launch, known.message, site, orders)
                return
        self.findings.append(Found(kind, launch, message, site, (order,)))

    def compare(self, launch: Launch, arguments: Mapping[str, Any], order: str) -> None:
        """Finds the arguments that do not hold what is expected."""
        for name, message in wrong_numbers(launch, arguments):
            self.add("numbers", launch.label, message, f"argument {name}", order)

    def hold_to_limits(self, launch: Launch, moved: Sequence[Moved], order: str) -> None:
        """Keeps the traffic, and finds what is beyond the limits of its launch."""
        self.traffic += moved
        there = [row for row in moved if row.space == "global"]
        total = sum(row.bytes for row in there)
        if launch.vector_bytes is not None and total:
            wide = sum(row.bytes for row in there if row.access_bytes >= launch.vector_bytes)
            if wide < 0.9 * total:
                message = (
                    f"{wide / total:.0%} of {total:,} bytes of global memory are moved by accesses "
                    f"of {launch.vector_bytes} bytes or more; 90 % are asked for"
                )
                self.add("narrow", launch.label, message, "", order)
        sectors = sum(row.sectors for row in there)
        ideal = sum(row.ideal_sectors for row in there)
        if launch.efficiency is not None and ideal < launch.efficiency * sectors:
            message = (
                f"{sectors:,} sectors were moved where {ideal:,} hold what was asked for: "
                f"{ideal / sectors:.0%}, and {launch.efficiency:.0%} are asked for"
            )
            self.add("wasted_traffic", launch.label, message, "", order)

    @classmethod
    def of(cls, text: dict[str, Any]) -> RungResult:
        """From what ``dataclasses.asdict`` made of one."""
        findings = [Found(**{**one, "orders": tuple(one["orders"])}) for one in text["findings"]]
        traffic = [Moved(**one) for one in text["traffic"]]
        return cls(text["rung"], text["launches"], findings, traffic)


def sentences(result: RungResult, traffic: bool) -> Iterable[str]:
    """The lines that a person reads."""
    launches, findings = len(result.launches), len(result.findings)
    yield (
        f"{result.rung}: {launches} launch{'es' * (launches != 1)}, "
        f"{findings or 'no'} finding{'s' * (findings != 1)}"
    )
    for one in result.findings:
        where = f" at {one.site}" if one.site else ""
        orders = f" [{', '.join(one.orders)}]" if len(one.orders) not in (0, 3) else ""
        yield f"  {one.kind} in {one.launch}{where}{orders}"
        yield f"    {one.message}"
    if traffic:
        for row in sorted(result.traffic, key=lambda row: -row.bytes):
            verb = "stores" if row.write else "loads"
            ideal = f", {row.ideal_sectors:,} at best" if row.space == "global" else ""
            moved = f"{row.sectors:,} sectors{ideal}" if row.space == "global" else "shared memory"
            yield (
                f"  {row.launch}: {row.site or '?'} {verb} {row.access_bytes} bytes a thread, "
                f"{row.bytes:,} bytes in {row.requests:,} requests, {moved}"
            )
