"""`adadagrad-kernels report`."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

from adadagrad_kernels.cli.table import format_table
from adadagrad_kernels.files import replace_file
from adadagrad_kernels.optional import require
from adadagrad_kernels.report import results
from adadagrad_kernels.report.figures import NAMES, figures
from adadagrad_kernels.report.page import notes, page
from adadagrad_kernels.report.runs import collect, group
from adadagrad_kernels.writers.metrics_file import strict


def run(arguments: argparse.Namespace) -> int:
    """Reads the runs, writes page and pictures, prints the results.

    Raises:
        DataFormatError: A metrics file is missing or damaged; nothing is written then.
    """
    require("matplotlib.figure", "the report")
    out: Path = arguments.out
    groups = group(collect(arguments.runs))
    rows = results.table(groups)
    drawn = figures(groups)
    out.mkdir(parents=True, exist_ok=True)
    for stale in set(NAMES) - {figure.name for figure in drawn}:
        (out / f"{stale}.png").unlink(missing_ok=True)
    files = {f"{figure.name}.png": figure.png for figure in drawn}
    files["report.html"] = page(arguments.title, groups, rows, drawn).encode()
    for name, content in files.items():
        replace_file(out / name, [content])
    paths = [str(out / name) for name in reversed(files)]
    if arguments.json:
        summary = {
            "title": arguments.title,
            "common_accuracy": results.common_accuracy(groups),
            "runs": [row.values() for row in rows],
            "files": paths,
        }
        print(json.dumps(strict(summary), indent=2))
        return 0
    table = format_table(results.header(), [results.cells(row) for row in rows])
    print("\n\n".join([table, textwrap.fill(" ".join(notes(groups)), 88), "\n".join(paths)]))
    return 0
