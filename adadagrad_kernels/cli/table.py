"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligns columns: the first to the left, the others, which hold numbers, to the right.

    Example:
        >>> print(format_table(["run", "steps"], [["small batch", "8,000"], ["large", "75"]]))
        run          steps
        -----------  -----
        small batch  8,000
        large           75
    """
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join([first, *rest]).rstrip()

    return "\n".join(
        [line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]
    )


def format_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Aligns `name  value` lines; a value of several lines stays in its column."""
    width = max(len(name) for name, _ in pairs)
    indent = "\n" + " " * (width + 2)
    return "\n".join(f"{name:<{width}}  {value.replace(chr(10), indent)}" for name, value in pairs)
