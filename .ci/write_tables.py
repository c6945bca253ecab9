"""Writes the tables of docs/reference/cli.md from those in the code, between their marks."""

from __future__ import annotations

import re
from pathlib import Path

from adadagrad_kernels.training.options import options_table

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "cli.md"

marks = re.compile(r"(<!-- options -->\n).*?(<!-- end of options -->)", re.DOTALL)
text = PAGE.read_text(encoding="utf-8")
PAGE.write_text(
    marks.sub(lambda found: f"{found[1]}{options_table()}\n{found[2]}", text), encoding="utf-8"
)
