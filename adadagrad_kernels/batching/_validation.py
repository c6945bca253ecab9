"""Checks of arguments and saved states that every class of this folder makes."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any


def require_int(name: str, value: object, *, at_least: int) -> int:
    """Returns ``value`` as an int, or says which integers are accepted.

    Raises:
        ValueError: if ``value`` is no integer or is below ``at_least``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = at_least - 1
    if number < at_least or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return number


def require_keys(owner: str, state: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Checks that a saved state has every key that its owner writes.

    Raises:
        ValueError: naming the missing keys.
    """
    missing = sorted(set(keys) - set(state))
    if missing:
        raise ValueError(
            f"not a state of {owner}: it lacks {', '.join(missing)}; "
            f"it has {', '.join(sorted(state)) or 'no keys'}"
        )


def require_equal(owner: str, name: str, saved: object, here: object) -> None:
    """Checks that a saved state belongs to the same setting.

    Raises:
        ValueError: stating both values.
    """
    if saved != here:
        raise ValueError(
            f"the state of {owner} was saved with {name}={saved!r}, "
            f"but this one has {name}={here!r}: make them the same to resume"
        )
