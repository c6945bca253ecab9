"""The options of `train`, from their tables: those of the run, and those of the command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from adadagrad_kernels.cli.command_options import COMMAND_OPTIONS, PRINTING
from adadagrad_kernels.training.option import GROUPS, Option
from adadagrad_kernels.training.options import OPTIONS


def add_train_options(train: argparse.ArgumentParser) -> None:
    """Adds them in their groups."""
    for title in GROUPS:
        rows = [row for row in (*COMMAND_OPTIONS, *OPTIONS) if row.group == title]
        _add_rows(train.add_argument_group(title), rows)


def add_printing(group: argparse._ActionsContainer) -> None:
    """Adds what says how results are printed."""
    _add_rows(group, PRINTING)


def _add_rows(group: argparse._ActionsContainer, rows: Iterable[Option]) -> None:
    exclusive: dict[frozenset[str | None], argparse._ActionsContainer] = {}
    for row in rows:
        to = group
        if row.excludes:
            pair = frozenset((row.name, row.excludes))
            if pair not in exclusive:
                exclusive[pair] = group.add_mutually_exclusive_group()
            to = exclusive[pair]
        text = row.explained.replace("%", "%%")
        if row.read is None:
            to.add_argument(row.flag, action="store_true", help=text)
        else:
            to.add_argument(
                row.flag,
                type=row.read,
                default=row.default,
                metavar=row.metavar,
                choices=row.choices,
                help=text,
            )
