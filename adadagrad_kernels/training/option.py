"""What there is to say of an option of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

#: The groups of ``--help``, in their order.
GROUPS = TASK, BATCH_SIZE, BUDGET, OUTPUT = (
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
        read: makes its value of a text; raises argparse's error where that says none. None for a
            switch, which takes no value.
        default: the value where it is not given; None where it follows from others.
        shown: the default in words, where it is not the value itself; empty for none.
        metavar: what stands for the value in ``--help``.
        choices: all values that are accepted, or None.
        read_by: what decides the size where it is read: a test, a schedule or none of them.
        defines: whether another value makes another run.
        excludes: the name of the option that cannot be given beside it.
    """

    name: str
    group: str
    help: str
    read: Callable[[str], Any] | None = str
    default: Any = None
    shown: str | None = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    read_by: tuple[str, ...] = ("test", "schedule", "none")
    defines: bool = True
    excludes: str | None = None

    @property
    def flag(self) -> str:
        """As it is given."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def explained(self) -> str:
        """Its help with the default."""
        return f"{self.help} (default: {self.told})".strip() if self.told else self.help

    @property
    def told(self) -> str:
        """The default in words; empty where there is none to tell."""
        if self.read is None:
            return ""
        return f"{self.default}" if self.shown is None else self.shown

    @property
    def row(self) -> str:
        """It as a row of a table in Markdown."""
        value = f" {self.metavar}" if self.metavar else ""
        if self.choices and not self.metavar:
            value = f" {', '.join(self.choices)}"
        said, value = self.help.replace(", see below", ""), value.replace("|", r"\|")
        return f"| `{self.flag}`{value} | {said} | {self.told or '-'} |"


def table_of(options: Iterable[Option]) -> str:
    """Options as a table in Markdown."""
    return "\n".join(
        ["| option | what it says | default |", "|---|---|---|", *(o.row for o in options)]
    )
