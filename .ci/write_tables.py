"""Writes the tables of documents from those in the code, between their marks."""

from __future__ import annotations

import re
from pathlib import Path

from adadagrad_kernels.cli.command_options import COMMAND_OPTIONS
from adadagrad_kernels.integrations.checkup import traps_table
from adadagrad_kernels.training.option import table_of
from adadagrad_kernels.training.options import OPTIONS

DOCS = Path(__file__).parent.parent / "docs"


def write(page: Path, name: str, table: str) -> None:
    """Put a table between the marks of its name."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    text = page.read_text(encoding="utf-8")
    page.write_text(
        marks.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text), encoding="utf-8"
    )


write(DOCS / "reference" / "cli.md", "options", table_of(OPTIONS))
write(DOCS / "reference" / "cli.md", "options of the command", table_of(COMMAND_OPTIONS))
write(DOCS / "guide" / "doctor.md", "traps", traps_table())
