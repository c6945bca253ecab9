"""A run whose budget is changed as it resumes."""

from __future__ import annotations

import json
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from adadagrad_kernels.cli import main
from adadagrad_kernels.training.loop import Trainer

RUN = "train --model logistic --lr 0.05 --eta 0.7 --batch-size 4 --max-batch 200 --quiet"
TIMES = ("seconds", "statistics_seconds", "statistics_share", "wall_seconds")


def train(out: Path, options: str) -> int:
    return main([*shlex.split(f"{RUN} {options}"), "--out", str(out)])


def lines(out: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in line if name not in TIMES} for line in found]


def test_a_finished_run_goes_on_to_a_larger_budget(tmp_path: Path) -> None:
    assert train(tmp_path, "--samples 1000 --evaluate-every 10") == 0
    before = lines(tmp_path)
    assert train(tmp_path, "--resume --samples 2K") == 0
    after = lines(tmp_path)
    assert after[: len(before) - 1] == before[:-1], "the last line was that of the end"
    assert [line["samples_seen"] for line in after if line.get("end")] == [2000]
    summary = json.loads((tmp_path / "summary.json").read_text())
    # What follows from the budget stays as the run began with it.
    assert summary["options"]["--evaluate-every"] == 10
    assert summary["options"]["--log-every"] == 1
    # Without a budget the run's own is taken: it is finished.
    assert train(tmp_path, "--resume") == 0
    assert lines(tmp_path) == after


def test_a_stopped_run_that_is_extended_is_the_longer_run_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, made = Trainer._step, 0

    def stopping(self: Trainer, *arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stopping)
        assert train(tmp_path / "extended", "--samples 2000 --evaluate-every 20") == 130
    assert train(tmp_path / "extended", "--resume --samples 3000") == 0
    assert train(tmp_path / "whole", "--samples 3000 --evaluate-every 20 --log-every 2") == 0
    assert lines(tmp_path / "extended") == lines(tmp_path / "whole")
    ours, theirs = (
        torch.load(tmp_path / name / "model.pt", weights_only=True)
        for name in ("extended", "whole")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_results_of_the_former_end_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(BaseException):
        pass

    def stop(*arguments: Any) -> Any:
        raise Stop

    assert train(tmp_path, "--samples 1000") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", stop)
        with pytest.raises(Stop):
            train(tmp_path, "--resume --samples 2000")
    assert sorted(os.listdir(tmp_path)) == ["checkpoint.adak", "metrics.jsonl"]
    assert train(tmp_path, "--resume --samples 2000") == 0
    assert lines(tmp_path)[-1]["samples_seen"] == 2000


def test_a_budget_below_what_was_seen_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "--samples 1000") == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(tmp_path, "--resume --samples 900") == 2
    assert "--samples 900 is below the 1,000 samples that the run in" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
