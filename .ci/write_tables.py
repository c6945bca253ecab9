"""Writes the tables of docs/reference/cli.md from those in the code, between their marks."""

from __future__ import annotations

import re
from pathlib import Path

from adadagrad_kernels.cli.command_options import COMMAND_OPTIONS
from adadagrad_kernels.training.option import table_of
from adadagrad_kernels.training.options import OPTIONS

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"

text = PAGE.read_text(encoding="utf-8")
for name, rows in {"options": OPTIONS, "options of the command": COMMAND_OPTIONS}.items():
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    text = marks.sub(lambda found, rows=rows: f"{found[1]}{table_of(rows)}\n{found[2]}", text)
PAGE.write_text(text, encoding="utf-8")
