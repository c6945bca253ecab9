"""Numbers in options."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from adadagrad_kernels.training.quantities import (
    Interval,
    count,
    interval,
    memory,
    non_negative,
    positive,
)


def test_accepted() -> None:
    assert [count(text) for text in ("8", "60_000", "60k", "6M", "1B")] == [
        8,
        60_000,
        60_000,
        6_000_000,
        1_000_000_000,
    ]
    assert [memory(text) for text in ("100", "64K", "256m", "2G")] == [
        100,
        65_536,
        268_435_456,
        2_147_483_648,
    ]
    assert interval("1M") == Interval(samples=1_000_000)
    assert interval("0.5s") == Interval(seconds=0.5)
    assert (positive("1e-3"), non_negative("0")) == (0.001, 0.0)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((count, text) for text in ("", "0", "-1", "1.5", "6G", "M", "1 000", "1__0", "nan")),
        *((memory, text) for text in ("0", "1B", "1T", "1.5G", "-1")),
        *((interval, text) for text in ("s", "0s", "-1s", "nans", "infs", "0", "5m30s")),
        *((positive, text) for text in ("0", "-1", "nan", "inf", "x", "")),
        *((non_negative, text) for text in ("-0.1", "nan", "inf", "x")),
    ],
)
def test_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected") as caught:
        read(text)
    assert text in str(caught.value)
