"""Failure signatures on the command line: the knobs are options, and go the way they help."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest

from adadagrad_kernels.cli import main
from adadagrad_kernels.cli.arguments import build_parser
from adadagrad_kernels.training.build import knobs
from adadagrad_kernels.training.catalogue import CONSTANTS

RUN = "train --model logistic --optimizer sgd --batch-size 8 --samples 800 --quiet"


def findings(caplog: pytest.LogCaptureFixture, out: Path, options: str) -> list[str]:
    with caplog.at_level(logging.WARNING, "adadagrad_kernels"):
        assert main([*shlex.split(f"{RUN} {options}"), "--out", str(out)]) == 0
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        (
            "--test noise-scale --scale 1000 --growth-cap 1e6",
            "a smaller --scale (now 1000.0), or --growth-cap",
        ),
        (
            "--test norm --eta 0.001 --growth-cap 1e6",
            "a larger --eta (now 0.001), or --growth-cap (now",
        ),
    ],
)
def test_the_cap_at_once(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, options: str, advice: str
) -> None:
    said = [text for text in findings(caplog, tmp_path, options) if "cap_at_once" in text]
    assert len(said) == 1
    assert f"Knobs: {advice}" in said[0]


def test_diversity_says_nothing_before_its_first_epoch_is_over(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """It has not decided yet: a loss that stands still is none of its doing."""
    options = "--test diversity --lr 1e-12 --batch-size 2"  # 400 steps, 719 to an epoch
    assert findings(caplog, tmp_path, options) == []


def test_every_knob_of_a_command_is_an_option_of_it() -> None:
    assert set(CONSTANTS) < set(knobs())
    for option in knobs().values():
        build_parser().parse_args(["train", option, "2"])
