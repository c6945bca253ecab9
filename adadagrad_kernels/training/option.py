"""What there is to say of an option of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: The groups of ``--help``, in their order.
TASK, BATCH_SIZE, BUDGET, OUTPUT = (
    "what to train",
    "batch size",
    "budget and memory",
    "output",
)


@dataclass(frozen=True)
class Option:
    """An option.

    Attributes:
        name: of the field of a run's configuration; with dashes, of the option.
        group: of ``--help``.
        help: what it does.
        read: makes its value of a text; raises argparse's error where that says none.
        default: the value where it is not given; None where it follows from others.
        shown: the default in words, where it is not the value itself; empty for none.
        metavar: what stands for the value in ``--help``.
        choices: all values that are accepted, or None.
        read_by: what decides the size where it is read: a test, a schedule or none of them.
        defines: whether another value makes another run.
    """

    name: str
    group: str
    help: str
    read: Callable[[str], Any] = str
    default: Any = None
    shown: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    read_by: tuple[str, ...] = ("test", "schedule", "none")
    defines: bool = True

    @property
    def flag(self) -> str:
        """As it is given."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def explained(self) -> str:
        """Its help with the default."""
        shown = f"{self.default}" if self.shown is None else self.shown
        return f"{self.help} (default: {shown})".strip() if shown else self.help
