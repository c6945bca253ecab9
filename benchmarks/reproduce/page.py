"""Writes docs/reference/reproduction.md from the figures that are kept, and what they show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.reproduce.results import FOLDER, SIZES, Experiment, Stored, stored
from benchmarks.reproduce.tables import paragraph

DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "reproduction.md"

HEAD = """\
# The papers' experiments, again

This page is written by a command from the figures in benchmarks/results/reproduce:

```sh
make reproduce DATA_DIR=folder                        # the size for two cores, then this page
make reproduce DATA_DIR=folder ARGS="--only rate/"    # one experiment, then this page
make reproduce ARGS=--page-only                       # this page alone
make reproduce DATA_DIR=folder ARGS="--size paper"    # the published size
```

They take about {hours:.1f} hours on two cores, the sum of the runs below. `folder` holds `mnist/`,
`libsvm/`, `text/` and `cifar10_subset.npz`. Every run is kept when it ends, and is not made again
while its settings are the same.

The tables give means over seeds, ± their standard error. Steps, samples and seconds to a target are
those at the first evaluation that meets it; evaluations are not timed. Seconds are those of the
training steps, statistics included. "Of it statistics" is the share that a run without tests would
have saved, from timings of the same backward pass without statistics; rules that read no statistics
have none.
"""


def write(experiments: Sequence[Experiment], folder: Path = FOLDER) -> Path:
    """Write the page of a folder: the documentation's, or one beside the figures elsewhere."""
    path = DOCUMENT if folder == FOLDER else folder / "reproduction.md"
    hours = sum(experiment.minutes for experiment in experiments) / 60
    lines = HEAD.format(hours=hours).splitlines()
    for experiment in experiments:
        lines += ["", f"## {experiment.title}", ""]
        figures = largest(experiment, folder)
        if figures is None:
            lines.append(
                f"No figures yet: `--only {experiment.name}/` makes them, on two cores in about "
                f"{experiment.minutes:g} minutes."
            )
            continue
        lines += [_made(experiment, figures), "", *experiment.section(figures)]
        if folder == FOLDER and experiment.draw is not None:
            experiment.draw(figures)
        if folder == FOLDER and (found := experiment.findings.get(figures.size)):
            lines += ["### What these figures show", "", *paragraph(found)]
    text = "\n".join(lines).rstrip() + "\n"
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    path.write_text(text, encoding="utf-8")
    return path


def largest(experiment: Experiment, folder: Path) -> Stored | None:
    """The figures of the largest size that was run."""
    for size in reversed(SIZES):
        figures = stored(experiment.name, size, folder)
        if figures.runs:
            return figures
    return None


def _made(experiment: Experiment, figures: Stored) -> str:
    used = sorted({run["machine"] for run in figures.runs})
    machines = "; ".join(
        f"{m['cpu']}, {m['cores']} cores, {m['isa']}, torch {m['torch']}"
        for m in (figures.machines[place] for place in used)
    )
    threads = sorted({run["settings"]["threads"] for run in figures.runs})
    return (
        f"Size: {figures.size}. Source: `benchmarks/reproduce/{experiment.name}.py`. "
        f"Threads: {' and '.join(map(str, threads))}. Machine: {machines}."
    )
