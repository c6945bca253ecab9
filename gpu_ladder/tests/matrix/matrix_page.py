"""What every rung says of every fault: docs/internals/gpu_faults.md, read and written.

The page keeps what was found. The tables of faults say which rows it has, and which rung must find
each: its words are bold.
"""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from pathlib import Path

from matrix_faults import KERNELS, RUNGS, Kernel

PAGE = Path(__file__).parents[3] / "docs/internals/gpu_faults.md"
#: The kernel as it is.
RIGHT = "nothing"

Said = dict[str, set[str]]
Key = tuple[str, str, str]


def all_keys() -> list[Key]:
    """Kind, kernel and fault of every row, in order; first what is said of each kernel as it is."""
    return [
        (kernel.kind, kernel.name, name)
        for kernel in KERNELS
        for name in (RIGHT, *(fault.name for fault in kernel.faults))
    ]


def read() -> dict[Key, Said]:
    """The rows of the page."""
    rows: dict[Key, Said] = {}
    text = PAGE.read_text(encoding="utf-8")
    for kind, rungs in RUNGS.items():
        for line in _part(text, kind).splitlines():
            cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
            if line.startswith("| `"):
                said = [set(cell.split(", ")) - {"", "–"} for cell in cells[2:]]
                rows[kind, cells[0].strip("`"), cells[1]] = dict(zip(rungs, said, strict=True))
    return rows


def keep(key: Key, said: Said) -> None:
    """Write one row into the page; another process may write another one meanwhile."""
    with open(PAGE, encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        PAGE.write_text(rendered({**read(), key: said}), encoding="utf-8")


def rendered(rows: dict[Key, Said]) -> str:
    """The page with these rows."""
    text = PAGE.read_text(encoding="utf-8")
    for kind, rungs in RUNGS.items():
        table = [f"| kernel | fault | {' | '.join(rungs)} |", "|---" * (len(rungs) + 2) + "|"]
        table += [_row(key, rows[key]) for key in all_keys() if key[0] == kind and key in rows]
        text = _put(text, kind, table)
    text = _put(text, "none", list(_found_by_none()))
    return _put(text, "not run", list(_not_run(rows)))


def _row(key: Key, said: Said) -> str:
    kind, kernel, name = key
    cells = []
    for rung in RUNGS[kind]:
        words = ", ".join(sorted(said[rung])) or "–"
        cells.append(f"**{words}**" if rung == _must(key) else words)
    return f"| `{kernel}` | {name} | {' | '.join(cells)} |"


def _must(key: Key) -> str | None:
    kernel = next(kernel for kernel in KERNELS if (kernel.kind, kernel.name) == key[:2])
    return None if key[2] == RIGHT else kernel.fault(key[2]).rung


def _found_by_none() -> Iterator[str]:
    for kernel in KERNELS:
        for fault in kernel.faults:
            if fault.rung is None:
                yield f"* `{kernel.name}` ({_KINDS[kernel.kind]}), {fault.name}: {fault.why}."


def _not_run(rows: dict[Key, Said]) -> Iterator[str]:
    missing = [key for key in all_keys() if key not in rows]
    if not missing:
        yield "Nothing: every fault was run on every rung."
    for kind, kernel, fault in missing:
        yield f"* `{kernel}` ({_KINDS[kind]}), {fault}"


_KINDS = {"cuda": "CUDA", "triton": "Triton"}


def _marks(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name} -->\n)(.*?)(\n<!-- end of {name} -->)", re.DOTALL)


def _part(text: str, name: str) -> str:
    found = _marks(name).search(text)
    assert found is not None, f"{PAGE.name} has no marks of {name}"
    return found[2]


def _put(text: str, name: str, lines: list[str]) -> str:
    return _marks(name).sub(lambda found: found[1] + "\n".join(lines) + found[3], text)


def kernels_of(words: list[str]) -> list[Kernel]:
    """Those of the kinds and names, or all."""
    return [k for k in KERNELS if not words or k.kind in words or k.name in words]
