"""Numbers as options give them: `60_000`, `6M`, `256M` bytes, `300s`."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """How often something happens: every so many samples, or every so many seconds."""

    samples: int | None = None
    seconds: float | None = None


def count(text: str) -> int:
    """Reads a positive whole number, with K, M or B for thousands, millions and billions."""
    return _scaled(text, {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}, "60000, 60_000, 60K or 6M")


def memory(text: str) -> int:
    """Reads a number of bytes, with K, M or G for 1024 bytes and its powers."""
    return _scaled(text, {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}, "256M or 1G, in bytes")


def interval(text: str) -> Interval:
    """Reads a number of samples (`1M`), or of seconds (`300s`)."""
    try:
        if text.endswith("s"):
            return Interval(seconds=positive(text[:-1]))
        return Interval(samples=count(text))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"expected samples like 1M, or seconds like 300s, not {text!r}"
        ) from None


def names(text: str, accepted: Sequence[str]) -> list[str]:
    """Reads names separated by commas, each once."""
    found = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if unknown := [name for name in found if name not in accepted]:
        raise argparse.ArgumentTypeError(
            f"expected names among {', '.join(accepted)}, separated by commas, not {unknown[0]!r}"
        )
    return found


def positive(text: str) -> float:
    """Reads a finite number above zero."""
    number = _number(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, not {text}")
    return number


def non_negative(text: str) -> float:
    """Reads a finite number of at least zero."""
    number = _number(text)
    if not number >= 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, not {text}")
    return number


def factor(text: str) -> float:
    """Reads a finite number above one."""
    number = _number(text)
    if not number > 1:
        raise argparse.ArgumentTypeError(f"expected a factor above 1, not {text}")
    return number


def share(text: str) -> float:
    """Reads a number of at least zero and below one."""
    number = _number(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected 0 or more and below 1, not {text}")
    return number


def confidence(text: str) -> float:
    """Reads a number above zero and below one."""
    number = _number(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0 and below 1, not {text}")
    return number


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"expected a number, not {text!r}")
    return number


def _scaled(text: str, units: dict[str, int], examples: str) -> int:
    match = re.fullmatch(r"(\d+(?:_\d+)*)([a-z]?)", text.lower())
    if match is None or match[2] not in units or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(
            f"expected a positive number like {examples}, not {text!r}"
        )
    return int(match[1]) * units[match[2]]
