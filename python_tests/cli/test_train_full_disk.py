"""`adadagrad-kernels train` on a disk that fills up: at a checkpoint, at a line, before either."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.train_runs import assert_same_result, full_disk, stop_after, train

from adadagrad_kernels.cli import checkpoint
from adadagrad_kernels.cli.checkpoint import load_checkpoint
from adadagrad_kernels.writers.metrics_file import MetricsFile


def test_full_disk_while_checkpointing(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Checkpoints fail from the sixth step on: training goes on, and says so."""
    with monkeypatch.context() as patch:
        stop_after(patch, 6, lambda: patch.setattr(checkpoint, "replace_file", full_disk))
        assert train(tmp_path, "--checkpoint-every", "1") == 1
    error = capsys.readouterr().err.splitlines()
    state = load_checkpoint(tmp_path / "checkpoint.adak")["trainer"]["controller"]
    assert state["steps"] == 5
    kept = f"the last good one, of sample {state['samples_seen']:,}, stays"
    assert "No space left on device" in error[0]
    assert kept in error[0]
    # At the end the checkpoint is no longer optional.
    assert error[-1].startswith("adadagrad-kernels: error: ")
    assert "run again with --resume" in error[-1]
    assert train(tmp_path, "--resume") == 0
    assert_same_result(tmp_path, reference)


def test_full_disk_before_the_first_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint, "replace_file", full_disk)
    assert train(tmp_path, "--checkpoint-every", "1000") == 1
    error = capsys.readouterr().err
    assert "there is none yet" in error
    assert (tmp_path / "metrics.jsonl").read_bytes(), "what was measured stays"
    assert error.splitlines()[-1] == (
        "adadagrad-kernels: error: [Errno 28] No space left on device"
    )


@pytest.mark.parametrize("written", [b"", b'{"half": '])
def test_full_disk_before_the_first_line(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    written: bytes,
) -> None:
    """The file is named, and nothing is left that would be in the way of another try."""

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def write(self, line: bytes) -> None:
            self._file.write(written)
            full_disk()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

    made = MetricsFile.__init__

    def full(self: MetricsFile, *arguments: Any) -> None:
        made(self, *arguments)
        self._file = Full(self._file)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsFile, "__init__", full)
        assert train(tmp_path) == 1
    file = tmp_path / "metrics.jsonl"
    assert capsys.readouterr().err.endswith(
        f"error: [Errno 28] No space left on device: '{file}'\n"
    )
    assert os.listdir(tmp_path) == []
    assert train(tmp_path) == 0
    assert_same_result(tmp_path, reference)


def test_full_disk_while_logging(
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A line that is half written is cut off again."""

    def half(self: MetricsFile, line: object) -> None:
        self._file.write(b'{"half": ')
        full_disk()

    with monkeypatch.context() as patch:
        stop_after(patch, 6, lambda: patch.setattr(MetricsFile, "write", half))
        assert train(tmp_path, "--checkpoint-every", "1") == 1
    assert "No space left on device; the last good checkpoint is of" in capsys.readouterr().err
    assert train(tmp_path, "--resume") == 0
    assert_same_result(tmp_path, reference)
