"""`adadagrad-kernels train`: its files, its table, and a run in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.train_runs import assert_same_result, metrics, train


def test_files_and_table(reference: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = metrics(reference)
    summary = json.loads((reference / "summary.json").read_text())
    assert lines[-1]["end"]
    assert summary["samples_seen"] == 3000
    assert summary["test_accuracy"] == lines[-1]["test_accuracy"] > 0.6
    assert summary["options"]["--eta"] == 0.7
    assert summary["parameters"] == 650
    assert summary["batch/average"] == 3000 / summary["steps"]
    assert 0 < summary["seconds"] < 60
    # Resuming what is finished changes nothing, and prints the table again.
    assert train(reference, "--resume", "--quiet") == 0
    assert metrics(reference) == lines
    table = capsys.readouterr().out.splitlines()
    column = table[0].index("3,000")
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in table)
    assert f"{summary['test_accuracy']:.2%}" in table[6]
    assert summary["wall_seconds"] > summary["seconds"]
    (wall,) = (line for line in table if line.startswith("wall time"))
    assert float(wall.split()[2]) >= round(summary["wall_seconds"], 1), "it went on for a moment"


def test_json_summary(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tmp_path / "run", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert_same_result(tmp_path / "run", reference)


def test_a_run_in_the_way(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert train(tmp_path, "--seed", "1") == 2
    error = capsys.readouterr().err
    assert "holds a run (checkpoint.adak, metrics.jsonl, summary.json, model.pt)" in error
    assert "--resume" in error
    assert "--overwrite" in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert train(tmp_path, "--seed", "1", "--overwrite") == 0
    assert metrics(tmp_path) != metrics(reference)
