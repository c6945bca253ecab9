"""The knobs that findings name: the direction to turn, the value now, in the reader's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adadagrad_kernels.batching.snapshot import Snapshot


def constants(now: Snapshot, words: Mapping[str, str], *, larger: bool) -> str:
    """The change of the criterion's constants that makes batches larger, or smaller.

    The criterion says which way its constants go (``larger_batches``); if it does not, the
    direction is left to the reader.
    """
    criterion: Any = now.criterion
    ways: Mapping[str, str] = getattr(criterion, "larger_batches", {})
    if not ways:
        return f"the constants of {criterion!r}, for {'larger' if larger else 'smaller'} batches"
    parts = []
    for name, way in ways.items():
        if not larger:
            way = "larger" if way == "smaller" else "smaller"
        parts.append(f"a {way} {knob(name, _value(criterion, name), words)}")
    return " or ".join(parts)


def brakes(now: Snapshot, words: Mapping[str, str]) -> str:
    """The options of the controller that hold growth back, if any; each begins with a comma."""
    neutral = {"test_interval": 1, "hysteresis": 1.0, "cooldown": 0, "growth_cap": None}
    return "".join(
        f", {knob(name, value, words)}"
        for name, value in now.brakes.items()
        if value != neutral[name]
    )


def knob(name: str, value: object, words: Mapping[str, str]) -> str:
    """A knob by the reader's name for it, and its value now."""
    now = f"{value:,}" if isinstance(value, int) else value
    return f"{words.get(name, name)} (now {'none' if now is None else now})"


def _value(criterion: Any, name: str) -> object:
    """The constant, which may belong to a criterion inside another one."""
    while not hasattr(criterion, name) and hasattr(criterion, "criterion"):
        criterion = criterion.criterion
    return getattr(criterion, name, "unknown")
