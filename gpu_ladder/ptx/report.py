"""What a launch found and moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that CUDA does not allow, and where it happened first.

    Args:
        kind: ``race``, ``out_of_bounds``, ``uninitialised``, ``misaligned``,
            ``divergent_barrier``, ``divergent_collective`` or ``deadlock``.
        message: What happened, with the places that take part in it.
        line: Line of the PTX text.
        file: Source file, if the compiler noted it; else empty.
        source_line: Line of the source file; 0 if unknown.
        count: How often it happened.
    """

    kind: str
    message: str
    line: int
    file: str
    source_line: int
    count: int


@dataclass(frozen=True)
class Traffic:
    """What the requests of one memory instruction moved.

    A request is one instruction of one warp. Global memory moves in sectors of 32 bytes;
    `ideal_sectors` is the fewest that hold the bytes asked for. Shared memory takes `wavefronts`,
    passes over its 32 banks.
    """

    line: int
    file: str
    source_line: int
    space: str
    write: bool
    atomic: bool
    access_bytes: int
    requests: int
    bytes: int
    sectors: int
    ideal_sectors: int
    wavefronts: int
    ideal_wavefronts: int


@dataclass(frozen=True)
class BufferTraffic:
    """The distinct sectors of one buffer that a grid read and wrote: what has to move at least."""

    name: str
    bytes: int
    sectors_read: int
    sectors_written: int


@dataclass(frozen=True)
class Total:
    """The sum of many instructions' traffic."""

    requests: int = 0
    bytes: int = 0
    sectors: int = 0
    ideal_sectors: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0

    @property
    def efficiency(self) -> float:
        """Ideal sectors over those moved; 1 if nothing was moved."""
        return self.ideal_sectors / self.sectors if self.sectors else 1.0


def total(traffic: Iterable[Traffic]) -> Total:
    """Adds up."""
    rows = list(traffic)
    return Total(
        requests=sum(row.requests for row in rows),
        bytes=sum(row.bytes for row in rows),
        sectors=sum(row.sectors for row in rows),
        ideal_sectors=sum(row.ideal_sectors for row in rows),
        wavefronts=sum(row.wavefronts for row in rows),
        ideal_wavefronts=sum(row.ideal_wavefronts for row in rows),
    )


@dataclass(frozen=True)
class Report:
    """The result of a launch.

    Args:
        outcome: ``finished``, ``stuck`` (threads wait for one another), ``budget_spent`` or
            ``trapped``.
        findings: Empty for a correct kernel.
        traffic: One entry for each memory instruction; empty without checks.
        buffers: One entry for each buffer.
        instructions: How many instructions the warps executed.
    """

    outcome: str
    findings: tuple[Finding, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    buffers: tuple[BufferTraffic, ...] = ()
    instructions: int = 0

    @property
    def kinds(self) -> set[str]:
        """The kinds of the findings."""
        return {finding.kind for finding in self.findings}

    @property
    def global_loads(self) -> Total:
        """All that was read from global memory, atomics left out."""
        return total(row for row in self.traffic if row.space == "global" and not row.write)

    @property
    def global_stores(self) -> Total:
        """All that was written to global memory, atomics left out."""
        return total(
            row for row in self.traffic if row.space == "global" and row.write and not row.atomic
        )

    @property
    def shared(self) -> Total:
        """All accesses of shared memory."""
        return total(row for row in self.traffic if row.space == "shared")

    def raise_on_findings(self) -> None:
        """Raises RuntimeError that lists the findings, if there are any."""
        if self.findings or self.outcome != "finished":
            lines = [f"{finding.kind}: {finding.message}" for finding in self.findings]
            raise RuntimeError("\n".join([f"the kernel {self.outcome}", *lines]))
