"""What a page says of some of its architectures, to compare it with kernels compiled for these."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gpu_ladder.static.occupancy import DEVICES

_ORDER = re.compile(r"A single number holds for all architectures: (?P<names>[\w, ]+)\.")
_WIDTHS = re.compile(r"[\d/]+ x \d+(, [\d/]+ x \d+)*")
_RULE = re.compile(r"-+(:?)")


def architectures_of(page: str) -> tuple[int, ...]:
    """Those that a page is about, in the order of its numbers; none where it does not say."""
    found = _ORDER.search(page)
    return tuple(map(int, re.findall(r"sm_(\d+)", found["names"]))) if found else ()


def excerpt(page: str, wanted: Sequence[int]) -> str:
    """The page as it is about ``wanted`` alone, its tables without padding.

    Numbers that differ between the architectures lose those of the others. What is the same for all
    stays, the bytes and the budgets too.
    """
    every = architectures_of(page)
    places = [every.index(architecture) for architecture in sorted(wanted)]
    for name in ("sm_{}".format, lambda number: DEVICES[number].name):
        listed = ", ".join(map(name, every))
        page = page.replace(listed, ", ".join(map(name, sorted(wanted))))
    kernels, bytes_, rest = page.partition("## Bytes")
    lines = [_line(line, len(every), places) for line in kernels.splitlines()]
    lines += [_line(line, 0, []) for line in (bytes_ + rest).splitlines()]
    return "\n".join(lines)


def _line(line: str, count: int, places: Sequence[int]) -> str:
    if not line.startswith("|"):
        return line
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    cells = [_RULE.sub(r"-\1", cell) if _RULE.fullmatch(cell) else cell for cell in cells]
    return "| " + " | ".join([cells[0], *(_cell(cell, count, places) for cell in cells[1:])]) + " |"


def _cell(cell: str, count: int, places: Sequence[int]) -> str:
    if not _WIDTHS.fullmatch(cell):
        return _numbers(cell, count, places)
    parts = [part.split(" x ") for part in cell.split(", ")]
    kept = [(_numbers(counts, count, places), width) for counts, width in parts]
    return ", ".join(f"{counts} x {width}" for counts, width in kept if counts != "0") or "none"


def _numbers(text: str, count: int, places: Sequence[int]) -> str:
    each = text.split("/")
    if count < 2 or len(each) != count:
        return text
    kept = [each[place] for place in places]
    return kept[0] if len(set(kept)) == 1 else "/".join(kept)
