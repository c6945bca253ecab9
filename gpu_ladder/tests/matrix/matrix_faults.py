"""Faults, planted one at a time in the sources of the kernels: the tables in `faults`.

A table has a kernel, what runs it, and its faults, each with the cheapest rung that must find it;
or, where no rung does, with the reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

FAULTS = Path(__file__).parent / "faults"
#: What is run for each kind of kernel, from the cheapest to the dearest.
RUNGS = {
    "cuda": ("source", "source, checked", "sanitizers", "PTX", "machine code"),
    "triton": ("interpreter", "PTX", "machine code"),
}


@dataclass(frozen=True)
class Fault:
    """One edit of a source file.

    Attributes:
        name: what is wrong, as the page has it.
        file: in the folder of the kernels' sources.
        found: what stands there, by its words.
        planted: what stands there instead.
        rung: must find it; None where none does.
        why: none does.
    """

    name: str
    file: str
    found: str
    planted: str
    rung: str | None = None
    why: str = ""

    def plant(self, sources: Path) -> None:
        """Make the edit in a copy of the sources; the first occurrence counts."""
        path = sources / self.file
        text = path.read_text(encoding="utf-8")
        pattern = r"\s+".join(map(re.escape, self.found.split()))
        changed, count = re.subn(pattern, lambda _: self.planted, text, count=1)
        assert count, f"{self.file} has no {self.found!r} to plant {self.name!r} in"
        path.write_text(changed, encoding="utf-8")


@dataclass(frozen=True)
class Kernel:
    """A kernel and its faults.

    Attributes:
        kind: ``cuda`` or ``triton``.
        name: of the kernel.
        runs: a subject of CUDA; cases of Triton, each an op and a shape.
        faults: in the order of the table.
    """

    kind: str
    name: str
    runs: Any
    faults: tuple[Fault, ...]

    def fault(self, name: str) -> Fault:
        """The one of that name."""
        return next(fault for fault in self.faults if fault.name == name)


def _read(path: Path) -> Kernel:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    runs = table["subject"] if path.parent.name == "cuda" else table["cases"]
    faults = tuple(Fault(**fault) for fault in table["fault"])
    return Kernel(path.parent.name, table.get("kernel", path.stem), runs, faults)


#: In the order of their files.
KERNELS = tuple(_read(path) for path in sorted(FAULTS.glob("*/*.toml")))


def kernel_of(kind: str, name: str) -> Kernel:
    """The one of that kind and name."""
    return next(kernel for kernel in KERNELS if (kernel.kind, kernel.name) == (kind, name))
