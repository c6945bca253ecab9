"""`adadagrad-kernels train --resume`: after every kind of stop, and where it must not go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.train_runs import Stop, assert_same_result, kill, stop_after, train

from adadagrad_kernels.cli import checkpoint, folder, main
from adadagrad_kernels.cli.checkpoint import load_checkpoint
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.writers.metrics_file import MetricsFile

LONG_RUN = "--model cnn --eta 1 --samples 10000 --lr 0.02 --evaluate-every 5000"


@pytest.mark.parametrize("steps", [1, 6, 10])
def test_resume_after_a_kill(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """Stopped between checkpoints, so that metrics run ahead of the checkpoint."""
    with monkeypatch.context() as patch:
        stop_after(patch, steps, kill)
        with pytest.raises(Stop):
            train(tmp_path, "--checkpoint-every", "500", "--log-every", "1")
    assert train(tmp_path, "--resume", "--checkpoint-every", "1s", "--log-every", "1") == 0
    other = tmp_path / "undisturbed"
    assert train(other, "--log-every", "1") == 0
    (tmp_path / "undisturbed").rename(reference.parent / f"undisturbed-{steps}")
    assert_same_result(tmp_path, reference.parent / f"undisturbed-{steps}")


def test_resume_twice(reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        with monkeypatch.context() as patch:
            stop_after(patch, 5, kill)
            with pytest.raises(Stop):
                train(tmp_path, "--resume", "--checkpoint-every", "1")
    assert train(tmp_path, "--resume") == 0
    assert_same_result(tmp_path, reference)


def test_resume_after_kill_9(tmp_path: Path) -> None:
    """A process of its own, killed in the middle of its work."""
    command = [sys.executable, "-m", "adadagrad_kernels", "train", *LONG_RUN.split()]
    # One thread: how several share a matrix product may differ from process to process.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        # Elsewhere than here, where the sources would hide the installed package.
        [*command, "--checkpoint-every", "500", "--out", str(killed)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    try:
        deadline = time.monotonic() + 60
        while not (killed / "checkpoint.adak").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run must not end before it is killed"
    whole = tmp_path / "whole"
    resumed = load_checkpoint(killed / "checkpoint.adak")["trainer"]["controller"]["samples_seen"]
    assert 0 < resumed < 10_000
    for options in (["--out", str(killed), "--resume"], ["--out", str(whole)]):
        subprocess.run([*command, *options], cwd=tmp_path, env=environment, check=True)
    assert_same_result(killed, whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupt_leaves_a_checkpoint(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
) -> None:
    handler = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_after(patch, 7, lambda: os.kill(os.getpid(), number))
        assert train(tmp_path) == code
    assert signal.getsignal(number) is handler
    state = load_checkpoint(tmp_path / "checkpoint.adak")
    assert state["trainer"]["controller"]["steps"] == 7
    samples = state["trainer"]["controller"]["samples_seen"]
    error = capsys.readouterr().err
    assert f"stopped after {samples:,} of 3,000 samples; continue with --resume" in error
    assert train(tmp_path, "--resume") == 0
    assert_same_result(tmp_path, reference)


def test_second_interrupt_stops_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    stop_after(monkeypatch, 7, twice)
    assert train(tmp_path) == 130
    assert not (tmp_path / "checkpoint.adak").exists()
    assert capsys.readouterr().err.endswith("adadagrad-kernels: interrupted\n")


def test_resume_without_a_checkpoint_begins(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.jsonl").write_text("the first lines of a run killed early\n")
    assert train(tmp_path, "--resume") == 0
    assert "no checkpoint in" in capsys.readouterr().err
    assert_same_result(tmp_path, reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lr", "0.06"], "--lr was 0.05 and is now 0.06;"),
        (["--samples", "4000", "--seed", "2"], "another run: --seed was 0 and is now 2;"),
        (["--log-every", "7"], "another run: --log-every was 3 and is now 7;"),
        (["--test", "coordinate"], "--test was norm and is now coordinate;"),
    ],
)
def test_checkpoint_of_another_run(
    reference: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in reference.iterdir()}
    assert train(reference, "--resume", *options) == 1
    error = capsys.readouterr().err
    assert "checkpoint.adak: belongs to another run:" in error
    assert message in error
    assert {path: path.read_bytes() for path in reference.iterdir()} == before


def test_checkpoint_of_other_data(
    reference: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    check = folder.check_same_run
    monkeypatch.setattr(
        folder,
        "check_same_run",
        lambda path, saved, given, but_for: check(
            path, {**saved, "the data (CRC-32)": 7}, given, but_for
        ),
    )
    assert train(reference, "--resume") == 1
    assert "the data (CRC-32) was 7 and is now" in capsys.readouterr().err


def test_damaged_checkpoint(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray((reference / "checkpoint.adak").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "checkpoint.adak").write_bytes(content)
    assert train(tmp_path, "--resume") == 1
    error = capsys.readouterr().err
    assert error.startswith("adadagrad-kernels: error: ")
    assert "damaged, its content does not match its checksum" in error
    assert os.listdir(tmp_path) == ["checkpoint.adak"]


def test_lost_metrics(reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (reference / "checkpoint.adak").read_bytes()
    (tmp_path / "checkpoint.adak").write_bytes(content)
    assert train(tmp_path, "--resume") == 1
    assert "metrics.jsonl: found 0 bytes, but" in capsys.readouterr().err


def test_another_machine_is_told(
    reference: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = folder._environment()
    monkeypatch.setattr(folder, "_environment", lambda: {**environment, "torch": "9.9"})
    assert train(reference, "--resume") == 0
    error = capsys.readouterr().err
    assert f"torch was {torch.__version__} and is now 9.9" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"epoch": 3}, "holds epoch, expected environment, fingerprint, metrics_by"),
        (lambda state: {**state, "fingerprint": []}, "holds environment, fingerprint, metrics_b"),
        (lambda state: {**state, "trainer": {}}, "its state does not fit this run (KeyError: 'con"),
    ],
)
def test_a_checkpoint_with_other_content(
    reference: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
) -> None:
    """Well formed, with a right checksum, and no run's."""
    state = load_checkpoint(reference / "checkpoint.adak")
    checkpoint.save_checkpoint(tmp_path / "checkpoint.adak", change(state))
    assert train(tmp_path, "--resume") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"adadagrad-kernels: error: {tmp_path / 'checkpoint.adak'}: {message}")
    assert os.listdir(tmp_path) == ["checkpoint.adak"]


def test_checkpoints_come_when_due(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = folder.RunFolder.save

    def noted(self: folder.RunFolder, trainer: Trainer, metrics: MetricsFile) -> None:
        saved.append(trainer.controller.samples_seen)
        save(self, trainer, metrics)

    monkeypatch.setattr(folder.RunFolder, "save", noted)
    run = "train --model logistic --samples 1000 --test none --batch-size 100 --max-batch 100"
    out = ["--out", str(tmp_path / "samples"), "--checkpoint-every", "250"]
    assert main([*run.split(), *out]) == 0
    assert saved == [300, 600, 900, 1000]
    saved.clear()
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def second(self: Trainer, *arguments: Any) -> Any:
        nonlocal now
        now += 1
        return step(self, *arguments)

    step = Trainer._step
    monkeypatch.setattr(Trainer, "_step", second)
    out = ["--out", str(tmp_path / "seconds"), "--checkpoint-every", "3.5s"]
    assert main([*run.split(), *out]) == 0
    assert saved == [400, 800, 1000]
