"""The options of the command `train` itself, which make no other run: a row each.

``--help`` and a table of docs/reference/cli.md are made from these rows, beside those of the run in
`training/options.py`.
"""

from __future__ import annotations

from pathlib import Path

from adadagrad_kernels.cli import texts
from adadagrad_kernels.training import quantities
from adadagrad_kernels.training.option import OUTPUT, Option


def _writers(text: str) -> list[str]:
    return quantities.names(text, texts.WRITERS)


#: How results are printed, by every command that trains.
PRINTING = (
    Option("json", OUTPUT, "print the summary as JSON instead of a table", read=None),
    Option("quiet", OUTPUT, "no progress bar (there is none without a terminal)", read=None),
)

COMMAND_OPTIONS = (
    Option(
        "out",
        OUTPUT,
        "folder for metrics, checkpoint and result",
        Path,
        Path("runs/train"),
        metavar="DIR",
    ),
    Option(
        "resume",
        OUTPUT,
        "continue the run in --out from its checkpoint, bit for bit, or begin if there is none; "
        "the options must be those it began with, except --samples: a larger one extends the run, "
        "and without it the run's own is taken",
        read=None,
        excludes="overwrite",
    ),
    Option(
        "overwrite",
        OUTPUT,
        "begin anew although --out holds a run",
        read=None,
        excludes="resume",
    ),
    Option(
        "checkpoint_every",
        OUTPUT,
        "a checkpoint every N samples (1M) or T seconds (300s), and at the end",
        quantities.interval,
        quantities.Interval(seconds=60.0),
        "60s",
        "N|Ts",
    ),
    Option(
        "writer",
        OUTPUT,
        "where the metrics go beside metrics.jsonl: csv (metrics.csv), tensorboard (tensorboard/), "
        "wandb (wandb/; WANDB_MODE=offline needs no account), jsonl (nothing more)",
        _writers,
        [],
        "",
        "W,...",
    ),
    *PRINTING,
)
