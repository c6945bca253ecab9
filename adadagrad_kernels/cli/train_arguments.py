"""The options of `train`: those of the run, from their table, and those of the command."""

from __future__ import annotations

import argparse
from pathlib import Path

from adadagrad_kernels.cli import texts
from adadagrad_kernels.training import option, options, quantities


def add_train_options(train: argparse.ArgumentParser) -> None:
    """Adds them in their groups."""
    for title in (option.TASK, option.BATCH_SIZE, option.BUDGET):
        _add_rows(train.add_argument_group(title), title)
    _add_output(train.add_argument_group(option.OUTPUT))


def add_printing(group: argparse._ActionsContainer) -> None:
    """Adds what says how results are printed."""
    group.add_argument(
        "--json", action="store_true", help="print the summary as JSON instead of a table"
    )
    group.add_argument(
        "--quiet", action="store_true", help="no progress bar (there is none without a terminal)"
    )


def _add_rows(group: argparse._ArgumentGroup, title: str) -> None:
    for row in options.OPTIONS:
        if row.group == title:
            group.add_argument(
                row.flag,
                type=row.read,
                default=row.default,
                metavar=row.metavar,
                choices=row.choices,
                help=row.explained.replace("%", "%%"),
            )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out",
        type=Path,
        default=Path("runs/train"),
        metavar="DIR",
        help="folder for metrics, checkpoint and result (default: %(default)s)",
    )
    existing = group.add_mutually_exclusive_group()
    existing.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out from its checkpoint, bit for bit, or begin if there "
        "is none; the options must be those it began with, except --samples: a larger one extends "
        "the run, and without it the run's own is taken",
    )
    existing.add_argument(
        "--overwrite", action="store_true", help="begin anew although --out holds a run"
    )
    group.add_argument(
        "--checkpoint-every",
        type=quantities.interval,
        default=quantities.Interval(seconds=60.0),
        metavar="N|Ts",
        help="a checkpoint every N samples (1M) or T seconds (300s), and at the end (default: 60s)",
    )
    _add_rows(group, option.OUTPUT)
    group.add_argument(
        "--writer",
        type=lambda text: quantities.names(text, texts.WRITERS),
        default=[],
        metavar="W,...",
        help="where the metrics go beside metrics.jsonl: csv (metrics.csv), tensorboard "
        "(tensorboard/), wandb (wandb/; WANDB_MODE=offline needs no account), jsonl (nothing more)",
    )
    add_printing(group)
