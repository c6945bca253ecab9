"""`adadagrad-kernels demo`: the same budget for all, a table that lines up, a picture."""

from __future__ import annotations

import json
import statistics
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from adadagrad_kernels.cli import demo, main
from adadagrad_kernels.cli.demo import METHODS
from adadagrad_kernels.report.figures import overview
from adadagrad_kernels.report.runs import Run, collect, group
from adadagrad_kernels.report.style import COLORS

SEEDS = 2
SAMPLES = 400


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def printed(out: Path) -> str:
    """The table of a small demonstration."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as text:
        patch.setattr(demo, "EVALUATIONS", 3)
        arguments = ["--samples", str(SAMPLES), "--seeds", str(SEEDS), "--out", str(out)]
        assert main(["demo", *arguments]) == 0
    return text.getvalue()


@pytest.fixture(scope="module")
def summary(out: Path, printed: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


def test_every_method_has_the_same_budget_and_seeds(summary: dict[str, Any]) -> None:
    runs = summary["runs"]
    assert [(run["run"], run["seed"]) for run in runs] == [
        (method.name, seed) for seed in range(SEEDS) for method in METHODS
    ]
    assert {run["samples_seen"] for run in runs} == {SAMPLES}
    steps = {run["run"]: run["steps"] for run in runs}
    assert steps["AdaGrad, batch 8"] == SAMPLES / 8
    assert steps["AdaGrad, batch 1,024"] == 1
    assert 1 < steps["AdAdaGrad"] < SAMPLES / 8


def test_means_are_those_of_the_runs(summary: dict[str, Any]) -> None:
    for row, method in zip(summary["methods"], METHODS, strict=True):
        runs = [run for run in summary["runs"] if run["run"] == method.name]
        for name in ("steps", "train_loss", "test_accuracy", "seconds", "batch/average"):
            assert row[name] == pytest.approx(sum(run[name] for run in runs) / SEEDS, abs=1e-12)
        deviation = statistics.stdev(run["test_accuracy"] for run in runs)
        assert row["test_accuracy_deviation"] == pytest.approx(deviation)
        shares = [run["statistics_seconds"] for run in runs]
        seconds = [run["seconds"] for run in runs]
        assert row["statistics_share"] == pytest.approx(sum(shares) / sum(seconds))
        assert row["seconds"] > 0


def test_table_lines_up_and_tells_the_summary(printed: str, summary: dict[str, Any]) -> None:
    header, rule, *rows = printed.splitlines()[: 2 + len(METHODS)]
    ends = [index for index in range(len(rule)) if rule[index : index + 2] in ("- ", "-")]
    for row, values in zip(rows, summary["methods"], strict=True):
        assert len(row) == len(rule)
        assert all(row[end] != " " and row[end + 1 : end + 2] in ("", " ") for end in ends[1:])
        assert row.startswith(values["run"])
        for text in (
            f"{values['steps']:,.0f}",
            f"{values['batch/average']:,.1f}",
            f"{values['train_loss']:.4f}",
            f"{values['test_accuracy'] * 100:.1f} ± ",
            f"{values['seconds']:.1f}",
        ):
            assert f" {text}" in row
    for title in ("steps", "avg. batch", "final loss", "test acc.", "seconds", "statistics"):
        assert title in header


def test_a_sentence_says_what_the_rows_mean(printed: str, summary: dict[str, Any]) -> None:
    text = " ".join(printed.split())
    assert "Adaptive batches save steps, not samples: with equal samples AdAdaGrad took " in text
    told = {"AdAdaGrad": "AdAdaGrad took", "AdaGrad, batch 8": "a fixed batch of 8"}
    told["AdaGrad, batch 1,024"] = "and one of 1,024"
    for row in summary["methods"]:
        if row["run"] in told:
            numbers = f"{row['steps']:,.0f} steps to {row['test_accuracy'] * 100:.1f} %"
            assert f"{told.pop(row['run'])} {numbers}" in text
    assert not told


def test_metrics_of_every_run(out: Path, summary: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for run in summary["runs"]:
        own = [line for line in lines if (line["run"], line["seed"]) == (run["run"], run["seed"])]
        assert own[0]["samples_seen"] == 0
        assert own[-1]["samples_seen"] == SAMPLES
        evaluated = [line for line in own if "test_accuracy" in line]
        assert evaluated[-1]["test_accuracy"] == run["test_accuracy"]
        assert own[-1]["end"]
        sizes = [line["batch/used"] for line in own[:-3]]
        assert sizes == sorted(sizes), "the batch never shrinks but at the end of the budget"


def test_metrics_can_be_reported(out: Path, summary: dict[str, Any]) -> None:
    groups = group(collect([str(out)]))
    assert list(groups) == [method.name for method in METHODS]
    assert all(run.finished for runs in groups.values() for run in runs)
    assert (out / "demo.png").read_bytes() == overview(groups), "the picture is of that file"


def test_picture_shows_every_curve(tmp_path: Path) -> None:
    names = [method.name for method in METHODS]
    runs = []
    for place, name in enumerate(names):
        runs.append(Run(name))
        for step in range(10):
            runs[-1].add(
                {
                    "samples_seen": 100 * step,
                    "train_loss": 2 / (1 + step + place),
                    "test_accuracy": 0.9 + 0.005 * step + 0.005 * place,
                    "batch/used": 8 * 2**place + step,
                    **({"batch/suggested": 1.0} if place < 3 else {}),
                }
            )
    (tmp_path / "picture.png").write_bytes(overview(group(runs)))
    pixels = imread(tmp_path / "picture.png")[:, :, :3]
    height, width, _ = pixels.shape
    assert height > 500
    assert width > 1500
    for color in COLORS[: len(names)]:
        close = abs(pixels - to_rgb(color)).max(2) < 0.02
        for panel in range(3):
            part = close[: int(height * 0.88), panel * width // 3 : (panel + 1) * width // 3]
            assert part.sum() > 300, f"{color} is missing in panel {panel}"
        assert close[int(height * 0.88) :].sum() > 20, f"{color} is missing in the legend"


def test_picture_of_a_short_run() -> None:
    run = Run("a")
    for samples in (0, 8):
        line = {"train_loss": 2.3, "test_accuracy": 0.03, "batch/used": 8}
        run.add({**line, "samples_seen": samples})
    assert len(overview(group([run]))) > 10_000


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--samples", "16", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(
        (tmp_path / "summary.json").read_text()
    )
