"""Tables line up."""

from __future__ import annotations

import doctest

from adadagrad_kernels.cli import table
from adadagrad_kernels.cli.table import format_pairs, format_table


def test_columns_line_up() -> None:
    text = format_table(
        ["run", "steps", "accuracy"],
        [["AdAdaGrad, norm test", "1,234", "97.5 %"], ["b = 8", "99", "100.0 %"]],
    )
    assert text.split("\n") == [
        "run                   steps  accuracy",
        "--------------------  -----  --------",
        "AdAdaGrad, norm test  1,234    97.5 %",
        "b = 8                    99   100.0 %",
    ]


def test_pairs_line_up_over_several_lines() -> None:
    text = format_pairs([("a", "1"), ("longer", "2\n3"), ("b", "none")])
    assert text.split("\n") == ["a       1", "longer  2", "        3", "b       none"]


def test_example() -> None:
    assert doctest.testmod(table).failed == 0
