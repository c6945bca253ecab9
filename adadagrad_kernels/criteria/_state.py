"""Checks of settings and saved states that several rules make."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any


def require_count(name: str, value: object, *, at_least: int = 1) -> int:
    """``value`` as an int.

    Raises:
        ValueError: unless it is an integer of at least ``at_least``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = at_least - 1
    if number < at_least or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return number


def require_factor(name: str, value: float) -> None:
    """Refuse factors of moving averages that do not average.

    Raises:
        ValueError: unless 0 <= value < 1.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be a number from 0 up and below 1, got {value}")


def require_entries(owner: str, state: Mapping[str, Any] | None, names: set[str]) -> dict[str, Any]:
    """The entries of a saved state.

    Raises:
        ValueError: where it has not those that ``owner`` writes.
    """
    found = set(state or {})
    if state is None or found != names:
        raise ValueError(
            f"not a state of {owner}: accepted are the entries {sorted(names)}, got {sorted(found)}"
        )
    return dict(state)


def require_numbers(owner: str, state: Mapping[str, Any] | None, names: set[str]) -> dict[str, Any]:
    """The entries of a saved state that holds numbers alone.

    Raises:
        ValueError: where it has not those that ``owner`` writes, or another type among them.
    """
    entries = require_entries(owner, state, names)
    for name, value in entries.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"the state of {owner} has {name}={value!r}; accepted are numbers")
    return entries
