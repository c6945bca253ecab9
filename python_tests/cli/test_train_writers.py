"""`adadagrad-kernels train --writer`: what beside metrics.jsonl holds the same, resumed or not."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from adadagrad_kernels.cli import main
from adadagrad_kernels.training.loop import Trainer

RUN = "--model logistic --lr 0.05 --eta 0.7 --batch-size 4 --max-batch 200 --samples 600"


def train(out: Path, *options: str) -> int:
    return main(["train", *RUN.split(), "--quiet", "--out", str(out), *options])


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_same_table(out: Path) -> None:
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = lines(out)
    assert len(rows) == len(expected) > 5
    for row, line in zip(rows, expected, strict=True):
        assert {name for name, cell in row.items() if cell} == set(line)
        for name, value in line.items():
            if value is None:
                assert row[name] in ("nan", "inf", "-inf")
            else:
                assert row[name] == str(value)


def test_csv_beside_metrics(tmp_path: Path) -> None:
    assert train(tmp_path, "--writer", "jsonl,csv") == 0
    assert_same_table(tmp_path)


class Stop(BaseException):
    """Stands for kill -9 inside the process."""


@pytest.mark.parametrize("before", ["csv", "jsonl"])
def test_resumed_tables_are_those_of_the_resumed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Lines behind the checkpoint go, those before it come, also into a writer that is new."""
    made = 0
    step = Trainer._step

    def stopped(self: Trainer, *arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == 8:
            raise Stop
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopped)
        with pytest.raises(Stop):
            train(tmp_path, "--checkpoint-every", "20", "--writer", before)
    found = len(lines(tmp_path))
    assert found > 2
    assert train(tmp_path, "--resume", "--writer", "csv") == 0
    assert len(lines(tmp_path)) > found
    assert_same_table(tmp_path)


def test_an_old_table_does_not_outlive_its_run(tmp_path: Path) -> None:
    assert train(tmp_path, "--writer", "csv") == 0
    assert train(tmp_path, "--overwrite") == 0
    assert not (tmp_path / "metrics.csv").exists()


def test_tensorboard_beside_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second time a finished run is resumed
        assert train(tmp_path, "--resume", "--writer", "tensorboard") == 0
        events = EventAccumulator(str(tmp_path / "tensorboard"), {"tensors": 0})
        events.Reload()
        for axis, name in (("samples", "samples_seen"), ("steps", "steps")):
            points = [event.step for event in events.Tensors(f"{axis}/seconds")]
            assert points == [line[name] for line in lines(tmp_path)]


def test_wandb_beside_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert train(tmp_path / "run", "--writer", "wandb") == 0
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1


@pytest.mark.parametrize("writer", ["csv,excel", "", "CSV"])
def test_unknown_writers_exit_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], writer: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        train(tmp_path / "run", "--writer", writer)
    assert stop.value.code == 2
    assert "expected names among jsonl, csv, tensorboard, wandb" in capsys.readouterr().err


def test_a_missing_package_stops_the_run_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(tmp_path / "run", "--writer", "csv,wandb") == 1
    error = capsys.readouterr().err
    assert "--writer wandb needs wandb" in error
    assert "pip install 'adadagrad-kernels[wandb]'" in error
    assert not (tmp_path / "run").exists()
