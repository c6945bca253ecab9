"""`train` without options: the batch grows over the budget, and the model learns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adadagrad_kernels.cli import main
from adadagrad_kernels.cli.arguments import build_parser
from adadagrad_kernels.training.config import resolve


@pytest.mark.slow
def test_digits_by_default_grow_the_batch_and_learn(tmp_path: Path) -> None:
    """With the paper's constants, made for MNIST, the second batch was the whole set: 73 %."""
    assert main(["train", "--quiet", "--out", str(tmp_path)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["test_accuracy"] > 0.95
    assert 50 < lines[-1]["steps"] < 14_370 / 8 / 4, "fewer steps than with batches of 8"
    sizes = {line["samples_seen"]: line["batch/global"] for line in lines}
    half = max(size for seen, size in sizes.items() if seen <= 14_370 / 2)
    assert 8 < half < 1_437 / 2, "half-way the batch has grown, and is not at its cap"
    assert sizes[14_370] > half


@pytest.mark.slow
@pytest.mark.parametrize(
    "test",
    [
        "noise-scale",
        *(
            pytest.param(test, marks=pytest.mark.nightly)
            for test in ("coordinate", "metric", "sign", "augmented")
        ),
    ],
)
def test_other_tests_on_digits_learn_too(test: str, tmp_path: Path) -> None:
    """Those that ask for the whole set at once had ten steps and 19 to 57 %."""
    assert main(["train", "--quiet", "--test", test, "--out", str(tmp_path)]) == 0
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["test_accuracy"] > 0.8


@pytest.mark.parametrize(
    ("data", "lr", "eta"),
    [("digits", 0.08, 1.0), ("mnist", 0.008, 0.1), ("fashion-mnist", 0.008, 0.1)],
)
def test_defaults_are_those_of_the_data(data: str, lr: float, eta: float) -> None:
    sizes = (1_437, 360) if data == "digits" else (60_000, 10_000)
    config = resolve(build_parser().parse_args(["train", "--data", data]), *sizes)
    assert (config.lr, config.eta) == (lr, eta)
    given = ["train", "--data", data, "--lr", "0.5", "--eta", "0.3", "--test", "coordinate"]
    config = resolve(build_parser().parse_args(given), *sizes)
    assert (config.lr, config.eta) == (0.5, 0.3)
    assert config.growth_cap == (1.1 if data == "digits" else None)
    given += ["--growth-cap", "1e9"]
    assert resolve(build_parser().parse_args(given), *sizes).growth_cap == 1e9
    alone = build_parser().parse_args(["train", "--data", data, "--test", "diversity"])
    assert resolve(alone, *sizes).growth_cap is None
