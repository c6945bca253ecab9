"""The papers' experiments: what is kept, the page, and every script at its smallest size."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from adadagrad_kernels import BatchController
from adadagrad_kernels.errors import DataFormatError
from benchmarks.reproduce import (
    cifar_adadagrad,
    closed_form,
    commands,
    mnist_adadagrad,
    page,
    papers,
    rate,
    results,
    tables,
)


def options(folder: Path, **changes) -> results.Options:
    return results.Options(**{"size": "smoke", "quiet": True, "out": folder, **changes})


def counting(calls: list[str], **settings) -> results.Experiment:
    """An experiment of two runs that say when they are made."""

    def runs(options: results.Options) -> list[results.Run]:
        return [
            results.Run("task", method, 0, {"threads": 1, **settings}, partial(made, method))
            for method in ("first", "second")
        ]

    def made(method: str) -> dict[str, float]:
        calls.append(method)
        return {"loss": math.inf if method == "first" else 2.0}

    def section(figures: results.Stored) -> list[str]:
        return [f"{run['method']}: {run['result']['loss']}" for run in figures.runs]

    return results.Experiment("counting", "Counting", 1, runs, section)


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    calls: list[str] = []
    assert commands.run(counting(calls), options(tmp_path, only="second"))
    assert calls == ["second"]
    commands.run(counting(calls), options(tmp_path))
    assert calls == ["second", "first"]
    commands.run(counting(calls), options(tmp_path))
    assert calls == ["second", "first"]
    kept = json.loads((tmp_path / "counting_smoke.json").read_text())
    assert [run["method"] for run in kept["runs"]] == ["first", "second"]
    assert [run["result"]["loss"] for run in kept["runs"]] == [None, 2.0]
    commands.run(counting(calls, lr=0.1), options(tmp_path, only="first"))
    assert calls == ["second", "first", "first"], "other settings make a run anew"
    kept = json.loads((tmp_path / "counting_smoke.json").read_text())
    assert [run["settings"].get("lr") for run in kept["runs"]] == [None, 0.1]


def test_a_run_that_fails_leaves_what_is_kept(tmp_path: Path) -> None:
    calls: list[str] = []
    commands.run(counting(calls), options(tmp_path, only="first"))
    before = (tmp_path / "counting_smoke.json").read_bytes()

    def fails(options: results.Options) -> list[results.Run]:
        def measure() -> dict[str, float]:
            raise DataFormatError("--data-dir is needed")

        return [replace(run, measure=measure) for run in counting(calls).runs(options)]

    assert not commands.run(replace(counting(calls), runs=fails), options(tmp_path))
    assert (tmp_path / "counting_smoke.json").read_bytes() == before


def test_runs_that_follow_from_figures_are_made_by_the_same_command(tmp_path: Path) -> None:
    """The second is listed once the first is kept, and what it is depends on that."""
    calls: list[str] = []
    experiment = counting(calls)

    def runs(given: results.Options) -> list[results.Run]:
        first, second = experiment.runs(given)
        kept = results.stored("counting", given.size, given.folder).runs
        return [first] + [replace(second, seed=7) for run in kept[:1] if not run["result"]["loss"]]

    assert commands.run(replace(experiment, runs=runs), options(tmp_path))
    assert calls == ["first", "second"]
    kept = json.loads((tmp_path / "counting_smoke.json").read_text())
    assert [(run["method"], run["seed"]) for run in kept["runs"]] == [("first", 0), ("second", 7)]


def test_runs_side_by_side_are_those_of_one_process(tmp_path: Path) -> None:
    """Each in a process of its own, whose list of calls this one does not see."""

    def runs(given: results.Options) -> list[results.Run]:
        def measured(number: int) -> dict[str, float]:
            return {"loss": number**2, "process": os.getpid()}

        return [
            results.Run("task", f"run {n}", 0, {"threads": 1}, partial(measured, n))
            for n in range(5)
        ]

    experiment = replace(counting([]), runs=runs)
    assert commands.run(experiment, options(tmp_path, jobs=2))
    kept = json.loads((tmp_path / "counting_smoke.json").read_text())["runs"]
    assert [run["method"] for run in kept] == [f"run {n}" for n in range(5)]
    assert [run["result"]["loss"] for run in kept] == [0, 1, 4, 9, 16]
    assert os.getpid() not in [run["result"]["process"] for run in kept]

    def fails(given: results.Options) -> list[results.Run]:
        def measure() -> dict[str, float]:
            raise DataFormatError("--data-dir is needed")

        return [replace(run, seed=1, measure=measure) for run in runs(given)]

    assert not commands.run(replace(experiment, runs=fails), options(tmp_path, jobs=2))


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(options: results.Options) -> list[results.Run]:
        def measure() -> dict[str, float]:
            raise KeyboardInterrupt

        return [replace(run, measure=measure) for run in counting([]).runs(options)]

    with pytest.raises(SystemExit, match="130"):
        commands.run(replace(counting([]), runs=stopped), options(tmp_path))
    assert "goes on" in capsys.readouterr().err


def test_the_page_is_written_from_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "DOCUMENT", tmp_path / "page.md")
    monkeypatch.setattr(page, "FOLDER", tmp_path)
    calls: list[str] = []
    experiment = counting(calls)
    assert "No figures yet: `--only counting/`" in page.write([experiment], tmp_path).read_text()
    commands.run(experiment, options(tmp_path))
    calls.clear()
    text = page.write([experiment], tmp_path).read_text()
    assert not calls
    assert "## Counting" in text
    assert "Size: smoke. Source: `benchmarks/reproduce/counting.py`. Threads: 1." in text
    assert "first: None\nsecond: 2.0" in text
    stored = tmp_path / "counting_machine.json"
    stored.write_text((tmp_path / "counting_smoke.json").read_text().replace("2.0", "3.0"))
    text = page.write(
        [replace(experiment, findings={"machine": "It counts."})], tmp_path
    ).read_text()
    assert "second: 3.0" in text, "the largest size"
    assert "show\n\nIt counts." in text
    other = page.write([replace(experiment, findings={"paper": "It counts."})], tmp_path)
    assert "It counts" not in other.read_text(), "said of figures that are not there"


def run_with(loss: float | None, seconds: float, steps: int | None, **growth) -> dict:
    reached = None if steps is None else {"steps": steps, "samples": 10 * steps, "seconds": 1.0}
    return {
        "task": "task",
        "method": "method",
        "settings": {"plan": {"growth": growth}},
        "result": {
            "steps": 100,
            "samples": 1000,
            "seconds": seconds,
            "statistics_seconds": 1.0,
            "diverged": loss is None,
            "final": {"train_loss": loss},
            "targets": {"train_loss 0.5": reached},
        },
    }


def test_a_table_of_two_seeds() -> None:
    """Means 0.2 and 3, standard errors 0.1 and 1: half the difference of the two values."""
    runs = [run_with(0.1, 2.0, 20, rule="norm"), run_with(0.3, 4.0, 30, rule="norm")]
    finals = [("loss", "train_loss", tables.short)]
    *_, row, _ = tables.training_table(runs, "train_loss", 0.5, finals)
    assert row == (
        "| method | 2 | 100 ± 0 | 10 ± 0 | 3.00 ± 1.00 | 33 % | 25 ± 5 | 250 ± 50 | 1.00 ± 0.00 "
        "| 0.200 ± 0.100 |"
    )
    runs[1] = run_with(None, 4.0, None)
    *_, row, _ = tables.training_table(runs[1:], "train_loss", 0.5, finals)
    assert row == "| method | 1 | 100 | 10 | 4.00 | – | not reached | – | – | – |"
    *_, row, _ = tables.training_table(runs, "train_loss", 0.5, finals)
    assert "| 20 (1 of 2) | 200 | 1.00 | – |" in row


@pytest.mark.parametrize("experiment", papers.experiments(), ids=papers.NAMES)
def test_every_experiment_at_smoke_size(experiment: results.Experiment, tmp_path: Path) -> None:
    """It runs, is finished the second time, and its section says nothing of missing figures."""
    given = ["--size", "smoke", "--out", str(tmp_path), "--seeds", "1", "--quiet"]
    given += ["--only", f"{experiment.name}/"]
    assert papers.main(given) == 0
    told = (tmp_path / "reproduction.md").read_text().partition(f"## {experiment.title}\n")[2]
    told = told.partition("\n## ")[0]
    kept = (tmp_path / f"{experiment.name}_smoke.json").read_bytes()
    figures = results.stored(experiment.name, "smoke", tmp_path)
    assert len(figures.runs) == len(experiment.runs(options(tmp_path, seeds=1)))
    assert papers.main(given) == 0
    assert (tmp_path / f"{experiment.name}_smoke.json").read_bytes() == kept
    assert f"Source: `benchmarks/reproduce/{experiment.name}.py`" in told
    assert "nan" not in told
    for task, method, _ in results.groups(figures.runs):
        # Of a grid of learning rates only the best is shown.
        assert task in told if re.search(r", lr [\d.]+$", method) else method in told


def test_data_that_are_missing_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert papers.main(["--only", "mnist_adadagrad/cnn", "--out", str(tmp_path)]) == 1
    assert "--data-dir" in capsys.readouterr().err


def test_the_exact_laws_of_a_batch() -> None:
    """The descent with a fixed batch of noise-free samples is AdaGrad-Norm on F."""

    found = rate.Descent(3, 40, 2, None, noise=0.0).run(closed_form.double_well, 0)
    generator = np.random.default_rng(0)
    x = generator.choice([-1.0, 1.0], 3) * generator.uniform(1.2, 1.8, 3)
    total, smallest = 1e-2, math.inf
    for _ in range(40):
        gradient = x * (x**2 - 1) / np.arange(1, 4) ** 1.5
        smallest = min(smallest, float(gradient @ gradient))
        total += float(gradient @ gradient)
        x = x - gradient / np.sqrt(total)
    assert found["line"][-1][1] == pytest.approx(smallest, rel=1e-9)
    line = [[k, 7 * k**-1.5] for k in (10, 20, 40, 80)]
    assert closed_form.slope(line, 1) == pytest.approx(-1.5)


def test_the_noise_of_a_drawn_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a point that stays, N has the mean |grad F|² + tr(Sigma) / b, and V_norm tr(Sigma)."""

    records = []

    class Keeping(BatchController):
        def update(self, statistics, samples=None) -> int:
            records.append(statistics)
            return super().update(statistics, samples)

    monkeypatch.setattr(rate, "BatchController", Keeping)
    descent = rate.Descent(50, 2000, 4, eta=99.0, noise=3.0, lr=0.0)
    exact = descent.run(closed_form.bounded, 0)["line"][-1][1]
    assert len(records) == 2000
    means = [sum(r.mean_sq_norm for r in records), sum(r.variance_norm for r in records)]
    assert means[0] / 2000 == pytest.approx(exact + 3.0 / 4, rel=0.05)
    assert means[1] / 2000 == pytest.approx(3.0, rel=0.05)


def test_the_budget_of_the_published_run() -> None:
    """At the cap every further step takes 60,000 samples; below it nobody knows."""

    ended = {"samples": 6_000_000, "steps": 366, "batch": 20_000}
    assert mnist_adadagrad.budget_steps(ended) == 366
    capped = {"samples": 3_070_000, "steps": 100, "batch": 60_000}
    assert mnist_adadagrad.budget_steps(capped) == 149
    assert mnist_adadagrad.budget_steps({**capped, "batch": 59_999}) is None


def test_the_papers_models() -> None:
    """As many parameters as the published code's; GroupNorm has as many as its BatchNorm."""

    def parameters(model: nn.Module) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    assert parameters(cifar_adadagrad.cnn()) == 541_094
    assert parameters(cifar_adadagrad.resnet18(64)) == 11_173_962
