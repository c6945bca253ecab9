"""The result of ``check_statistics``, as a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """One quantity.

    Attributes:
        quantity: what was compared.
        expected: with what.
        error: the largest difference, relative to the largest expected value.
        allowed: the largest error that counts as rounding.
        where: the parameter, buffer or output with that error, or an empty string.
    """

    quantity: str
    expected: str
    error: float
    allowed: float
    where: str = ""

    @property
    def ok(self) -> bool:
        """Whether the difference is rounding; NaN is not."""
        return self.error <= self.allowed


@dataclass(frozen=True)
class StatisticsCheck:
    """The result of ``check_statistics``; ``str()`` makes a table of it.

    Attributes:
        model: the model's class.
        samples: of the batch.
        rows: a row for every quantity.
    """

    model: str
    samples: int
    rows: tuple[Compared, ...]

    @property
    def ok(self) -> bool:
        """Whether every quantity is right."""
        return all(row.ok for row in self.rows)

    def __str__(self) -> str:
        cells = [("quantity", "compared with", "error", "allowed", "", "worst at")]
        for row in self.rows:
            verdict = "ok" if row.ok else "WRONG"
            sizes = (f"{row.error:.1e}", f"{row.allowed:.0e}")
            cells.append((row.quantity, row.expected, *sizes, verdict, row.where))
        widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
        title = f"layer_statistics of {self.model}, {self.samples} samples"
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in cells
        ]
        return "\n".join([title, *lines])
