"""Errors of a step in their order, some of which depend on numbers that a device still computes.

A check of gradients leaves its flags where the gradients are. All flags are read together, with the
numbers of the record, so that the host waits for the device once in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NoReturn

from torch import Tensor

from adadagrad_kernels.statistics.sums import on_host

#: The error that flags stand for, by their values; None where they stand for none.
Verdict = Callable[[Sequence[float]], Exception | None]


class Problems:
    """What has gone wrong in a step, and what may have."""

    def __init__(self) -> None:
        self._found: list[Exception | tuple[Tensor, Verdict]] = []

    def add(self, error: Exception) -> None:
        """One that is certain."""
        self._found.append(error)

    def add_first(self, error: Exception) -> None:
        """One that is certain and goes ahead of the others."""
        self._found.insert(0, error)

    def add_all(self, others: Problems) -> None:
        """Those of others, behind these."""
        self._found += others._found

    def fail(self, error: Exception) -> NoReturn:
        """Raise this error, or one that came before it.

        Raises:
            Exception: always.
        """
        self.add(error)
        self.require_none()
        raise error

    def ask(self, flags: Tensor, verdict: Verdict, *, first: bool = False) -> None:
        """One that depends on flags, which are read later.

        Args:
            flags: of any shape, on any device.
            verdict: says by their values which error it is, or that it is none.
            first: whether it goes ahead of the others.
        """
        self._found.insert(0 if first else len(self._found), (flags, verdict))

    def ask_each(
        self, flags: Tensor, errors: Callable[[int], Exception], *, first: bool = False
    ) -> None:
        """The same, where a flag that is set is an error, by its place."""

        def verdict(values: Sequence[float]) -> Exception | None:
            place = next((place for place, value in enumerate(values) if value), None)
            return None if place is None else errors(place)

        self.ask(flags, verdict, first=first)

    @property
    def certain(self) -> bool:
        """Whether there is one, whatever the flags are."""
        return any(isinstance(each, Exception) for each in self._found)

    def settle(self) -> bool:
        """Read the flags; whether there is a problem. Waits for a device if there are flags."""
        self._read(())
        return bool(self._found)

    def require_none(self, numbers: Sequence[Tensor] = ()) -> list[list[float]]:
        """Raise the first; else give the elements of each of the numbers, read with the flags.

        Raises:
            Exception: the first problem.
        """
        told = self._read(numbers)
        for error in self._found:
            assert isinstance(error, Exception)
            raise error
        return told

    def _read(self, numbers: Sequence[Tensor]) -> list[list[float]]:
        asked = [each for each in self._found if not isinstance(each, Exception)]
        if not asked and not numbers:
            return []
        told = on_host([*(flags for flags, _ in asked), *numbers])
        values = iter(told)
        judged = [
            each if isinstance(each, Exception) else each[1](next(values)) for each in self._found
        ]
        self._found = [error for error in judged if error is not None]
        return told[len(asked) :]
