"""Texts of options that name more than a number: schedules, learning-rate rules, own code."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from adadagrad_kernels.batching import BatchSizeSchedule, MilestoneSchedule, megatron_schedule
from adadagrad_kernels.training import quantities
from adadagrad_kernels.training.catalogue import SHAPES
from adadagrad_kernels.training.errors import UsageError

#: Between which every schedule can be built.
ANY_SIZES = 2**52, 2**53
#: ``package.module:function``.
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def schedule(text: str) -> str:
    """Reads a schedule as `--schedule` has it; returns the text as it is."""
    try:
        build_schedule(text, *ANY_SIZES)
    except (ValueError, argparse.ArgumentTypeError) as error:
        shapes = ", ".join(shape_texts())
        raise argparse.ArgumentTypeError(
            f"expected {shapes} with N samples (plateau: N evaluations), "
            f'or milestones such as "0:8 60K:64", not {text!r} ({error})'
        ) from None
    return text


def shape_texts() -> list[str]:
    """Every shape of a schedule as it is written, such as ``step:N``."""
    return [f"{name}:{','.join(shape.numbers)}" for name, shape in SHAPES.items()]


def build_schedule(text: str, smallest: int, largest: int) -> BatchSizeSchedule:
    """Builds a schedule.

    Args:
        text: A shape of the catalogue, such as `step:N`, or Megatron's milestones.
        smallest: The size at first, where the text does not say it.
        largest: The size at the end, where the text does not say it.

    Raises:
        ValueError: The text is no schedule.
    """
    name, _, numbers = text.partition(":")
    if name in SHAPES:
        shape, given = SHAPES[name], numbers.split(",")
        if len(given) != len(shape.numbers):
            raise ValueError(f"{name} takes {' and '.join(shape.numbers)}")
        return shape.build(smallest, largest, *map(quantities.count, given))
    return megatron_schedule(text)


def milestones(text: str | None) -> list[int]:
    """Returns the sizes that a schedule states itself, in their order; none of the shapes."""
    built = None if text is None else build_schedule(text, *ANY_SIZES)
    return list(built.milestones.values()) if isinstance(built, MilestoneSchedule) else []


def learning_rate_rule(text: str) -> str | float:
    """Reads what a batch that grows does to the learning rate: a name, or a factor."""
    if text in ("linear", "sqrt"):
        return text
    try:
        return quantities.positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected linear, sqrt, or the factor for a doubled batch, such as 0.75, not {text!r}"
        ) from None


def name_or_path(names: Collection[str]) -> Callable[[str], str]:
    """A reader of one of some names, or of the import path of a function."""

    def read(text: str) -> str:
        is_path = _PATH.fullmatch(text) and not text.partition(":")[0].endswith(".py")
        if text in names or is_path:
            return text
        raise argparse.ArgumentTypeError(
            f"expected {', '.join(names)}, or a function of yours such as mypackage.nets:build, "
            f"not {text!r}"
        )

    return read


def imported(option: str, path: str) -> Any:
    """What an import path names; the folder that the command runs in is looked in first.

    Raises:
        UsageError: saying what is missing: the module, the name in it, or what it imports.
    """
    module, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"{option} {path}: the module {module} could not be imported from {here} or the "
            f"installed packages ({error})"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(
                f"{option} {path}: {module} has no {name}; name a function in it, module:function"
            )
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{option} {path}: is a {type(found).__name__}; accepted is a function")
    return found
