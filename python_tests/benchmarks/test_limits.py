"""The command that measures every goal: its rows, its report, what it leaves out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adadagrad_kernels.backends import cpu
from benchmarks import limits
from benchmarks.measuring import processor
from benchmarks.train_steps import models

needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))


@needs_kernels
def test_the_report_has_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, threads = tmp_path / "limits.json", torch.get_num_threads()
    asked = ["--size", "1", "--rounds", "2", "--threads", "1", "--quick", "--only", "64 rows"]
    assert limits.main([*asked, "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    assert {"machine", "cpu", "isa", "threads", "torch", "rows", "settings"} <= report.keys()
    assert len(report["rows"]) == 7
    assert report["cpu"] == processor.name()
    printed = capsys.readouterr().out
    for row in report["rows"]:
        assert row["experiment"] in printed
        assert row["cpu"] == report["cpu"]
        assert row["what"] in printed
        assert row["quartiles"][0] <= row["measured"] <= row["quartiles"][1]
        met = row["measured"] >= row["goal"] if row["at_least"] else row["measured"] <= row["goal"]
        assert row["met"] == met
    assert torch.get_num_threads() == threads, "measuring leaves the threads as they were"


@needs_kernels
def test_an_experiment_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert limits.main(["--size", "1", "--only", "teleportation"]) == 2
    assert "no experiment's title contains 'teleportation'" in capsys.readouterr().err


def test_without_kernels_there_is_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "unavailable", lambda: "the module is missing")
    assert limits.main([]) == 2
    assert "there are no kernels to measure: the module is missing" in capsys.readouterr().err


@needs_kernels
def test_limits_has_the_training_steps(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--size", "1", "--rounds", "2", "--quick", "--only", "train op conv_moments"]
    assert limits.main(asked) == 0
    assert "norms + variance / plain gradient" in capsys.readouterr().out


@needs_kernels
def test_what_the_machine_lacks_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it raises ImportError
    monkeypatch.setattr(models, "no_bfloat16", lambda: "no such units")
    target = tmp_path / "limits.json"
    settings = ["--size", "1", "--rounds", "2", "--threads", "1", "--quick"]
    assert limits.main([*settings, "--only", "step of Llama", "--json", str(target)]) == 0
    printed = capsys.readouterr().out
    assert (
        "train step of Llama 1 x 128, batch 2 x 64, 1 thread\n  left out: needs Transf" in printed
    )
    report = json.loads(target.read_text())
    assert report["rows"] == []
    assert len(report["left_out"]) == 4, "times and memory, in both precisions"
    assert all("requirements/models.txt" in reason for reason in report["left_out"].values())
    assert limits.main([*settings, "--only", "ResNet-10, batch 2, bf16"]) == 0
    assert "left out: no such units" in capsys.readouterr().out


@needs_kernels
def test_the_command_measures_the_installed_package(tmp_path: Path) -> None:
    """Its folder has the sources too, which have no compiled kernels and would hide the package."""
    folder = Path(limits.__file__).parent
    target = tmp_path / "limits.json"
    asked = ["--size", "1", "--rounds", "2", "--quick", "--only", "batch_moments, 64 rows"]
    child = subprocess.run(
        [sys.executable, "-W", "error", folder.name, "limits", *asked, "--json", str(target)],
        cwd=folder.parent,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert json.loads(target.read_text())["rows"]
    child = subprocess.run(
        [sys.executable, folder.name, "nothing"], cwd=folder.parent, capture_output=True, text=True
    )
    assert child.returncode == 2
    assert child.stderr == "usage: python benchmarks {limits,plan,gpu-report} ...\n"
