"""Tables of the page, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int = 99) -> str:
    """A table whose columns line up; to the right from the ``right``-th column on."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(head))]
    rule = ["-" * width if c < right else "-" * (width - 1) + ":" for c, width in enumerate(widths)]
    lines = [
        [
            text.ljust(width) if column < right else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in cells
    ]
    return "".join("| " + " | ".join(line) + " |\n" for line in [lines[0], rule, *lines[1:]])


def quartiles(found: Sequence[float], scale: float, digits: int) -> str:
    """Of a median with its quartiles, those."""
    return f"[{found[1] * scale:,.{digits}f}, {found[2] * scale:,.{digits}f}]"
