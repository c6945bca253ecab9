"""Forecasts beside real runs: the two processes train as one does, and the table's ratios."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from adadagrad_kernels.report.hardware import read_hardware
from benchmarks.planned import command, ways
from benchmarks.planned.processes import Processes

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")


@pytest.mark.nightly
def test_every_way_is_forecast_and_run_with_one_process_and_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--rounds", "2", "--samples", "2000", "--out", str(tmp_path), "--sizes", "8,256"]
    asked += ["--model", "cnn"]
    assert command.main(asked) == 0
    report = json.loads((tmp_path / "planned.json").read_text())
    assert [(row["way"], row["workers"]) for row in report["rows"]] == [
        (way, workers) for way in ways.WAYS for workers in (1, 2)
    ]
    for found in (row for round_ in report["rounds"] for row in round_):
        # The same batches with one process and with two.
        assert found["samples"] == pytest.approx(found["samples_forecast"], rel=0.02)
        assert found["real"] > 0
    text = capsys.readouterr().out
    assert "of 8 forecasts within 10%" in text
    assert text.count("norm test") == 2
    table = read_hardware(tmp_path / "hardware.json")
    assert table.batches == (8, 256)
    assert (table.measured_workers, table.together.samples) == (2, (8, 256))
    assert table.latency > 0


def test_a_row_has_the_ratios_of_its_rounds() -> None:
    """Rounds of which the machine was slow in one, on both sides."""
    rounds = [
        {"way": "doubling", "workers": 2, "steps": 7, "forecast": forecast, "real": real}
        for forecast, real in ((1.0, 1.25), (4.0, 4.0), (1.0, 2.0))
    ]
    row = command._row(rounds)
    assert row["ratio"] == pytest.approx([0.8, 0.65, 0.9])
    assert not row["near"]
    assert (row["forecast"], row["real"]) == (1.0, 2.0)
    assert "0.80 [0.65, 0.90]" in command._table([row])


def test_a_process_that_ends_is_seen() -> None:
    processes = Processes(1)
    (lines,) = processes.do("run", way="batch 256", model="cnn", samples=1024)
    assert lines[-1]["samples_seen"] == 1024
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    with pytest.raises(RuntimeError, match="a process has ended"):
        processes.do("run", way="no such way", model="cnn", samples=1024)
