"""How much of a run is evaluation: by default never more samples than are trained on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from adadagrad_kernels.cli import main
from adadagrad_kernels.cli.arguments import build_parser
from adadagrad_kernels.training import data_sets, evaluation
from adadagrad_kernels.training.config import RunConfig, resolve
from adadagrad_kernels.training.data import Samples
from adadagrad_kernels.training.objectives import Objective

MNIST = (60_000, 10_000)
DIGITS = (1_437, 360)


def config(options: str, sizes: tuple[int, int]) -> RunConfig:
    return resolve(build_parser().parse_args(["train", *options.split()]), *sizes)


@pytest.mark.parametrize(
    ("samples", "sizes", "every"),
    [
        ("8K", MNIST, 20_000),  # at the end alone; a hundred of them took three minutes
        ("1M", MNIST, 20_000),
        ("6M", MNIST, 60_000),  # a hundredth
        ("14370", DIGITS, 1_797),
        ("1M", DIGITS, 10_000),
    ],
)
def test_the_default_is_a_count_that_the_samples_fix(
    samples: str, sizes: tuple[int, int], every: int
) -> None:
    assert config(f"--samples {samples}", sizes).evaluate_every == every
    assert config(f"--samples {samples} --evaluate-every 7", sizes).evaluate_every == 7


@pytest.mark.parametrize("samples", [200, 3_000, 6_000])
def test_no_more_is_evaluated_along_the_way_than_trained_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, samples: int
) -> None:
    evaluate, counted = evaluation.evaluate, 0

    def counting(model: nn.Module, given: Samples, objective: Objective) -> dict[str, float]:
        nonlocal counted
        counted += len(given)
        return evaluate(model, given, objective)

    monkeypatch.setattr(evaluation, "evaluate", counting)
    run = "train --model logistic --test none --batch-size 50 --quiet"
    assert main([*run.split(), "--samples", str(samples), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "metrics.jsonl").read_text()
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    along = [line for line in lines if "test_loss" in line and "end" not in line]
    assert len(along) == samples // sum(DIGITS)
    at_the_end = sum(DIGITS)
    assert counted - at_the_end == len(along) * sum(DIGITS) <= samples


def test_of_a_set_beyond_the_budget_the_first_part_is_evaluated_at_the_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = replace(data_sets.load_data("digits", None), train_samples=100)
    monkeypatch.setitem(data_sets.DATA_SETS, "digits", data_sets.DataSet(lambda folder: data))
    sizes = []

    def evaluate(model: nn.Module, given: Samples, objective: Objective) -> dict[str, float]:
        sizes.append(len(given))
        return {"loss": 1.0, "accuracy": 0.5}

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    for samples, expected in ((1_436, [100, 360]), (1_437, [1_437, 360])):
        run = "train --model logistic --test none --batch-size 50 --quiet --overwrite"
        options = ["--samples", str(samples), "--evaluate-every", "9999", "--out", str(tmp_path)]
        assert main([*run.split(), *options]) == 0
        assert sizes == expected
        sizes.clear()
