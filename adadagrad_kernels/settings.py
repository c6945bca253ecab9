"""Checks of settings and saved states, shared by all objects that have them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping
from typing import Any


def require_int(name: str, value: object, *, at_least: int) -> int:
    """Returns ``value`` as an int, or says which integers are accepted.

    Raises:
        ValueError: if ``value`` is not an integer, or below ``at_least``.
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = at_least - 1
    if number < at_least or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least {at_least}, got {value!r}")
    return number


def require_factor(name: str, value: float, *, above: float, inclusive: bool = False) -> float:
    """Returns a finite factor.

    Raises:
        ValueError: if it is not above the bound, or at it where ``inclusive``.
    """
    if not above <= value < math.inf or (value == above and not inclusive):
        accepted = "of at least" if inclusive else "above"
        raise ValueError(f"{name} must be a finite factor {accepted} {above:g}, got {value}")
    return value


def require_average_factor(name: str, value: float) -> None:
    """Refuse factors of moving averages that do not average.

    Raises:
        ValueError: unless 0 <= value < 1.
    """
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be at least 0 and below 1, got {value}")


def require_keys(owner: str, state: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Checks that a saved state has every key that its owner writes.

    Raises:
        ValueError: naming the missing keys.
    """
    missing = sorted(set(keys) - set(state))
    if missing:
        raise ValueError(
            f"not a state of {owner}: it lacks {', '.join(missing)}; it has "
            f"{', '.join(sorted(state)) or 'no keys'}; load what its state_dict() returned"
        )


def require_entries(owner: str, state: Mapping[str, Any] | None, names: set[str]) -> dict[str, Any]:
    """The entries of a saved state.

    Raises:
        ValueError: if they are not those that ``owner`` writes.
    """
    found = set(state or {})
    if state is None or found != names:
        raise ValueError(
            f"not a state of {owner}: accepted are the entries {sorted(names)}, got "
            f"{sorted(found)}; load what its state_dict() returned"
        )
    return dict(state)


def require_numbers(owner: str, state: Mapping[str, Any] | None, names: set[str]) -> dict[str, Any]:
    """The entries of a saved state that holds numbers alone.

    Raises:
        ValueError: if they are not those that ``owner`` writes, or not all are numbers.
    """
    entries = require_entries(owner, state, names)
    for name, value in entries.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"the state of {owner} has {name}={value!r}; accepted are numbers: load what its "
                "state_dict() returned"
            )
    return entries


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


def check_step_numbers(*, grad_scale: float = 1.0, **numbers: float) -> None:
    """Refuse numbers with which a step would climb or write NaN.

    Args:
        grad_scale: the factor of the gradients, by which they are divided.
        numbers: the others by their names, such as the learning rate.

    Raises:
        ValueError: for the first that is out of range, with what is accepted.
    """
    for name, value in numbers.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name} is {value}; accepted is a finite number of 0 or more")
    if not 0.0 < grad_scale < math.inf:
        raise ValueError(
            f"grad_scale is {grad_scale}; accepted is a finite number above 0, the factor that "
            "the gradients carry"
        )
