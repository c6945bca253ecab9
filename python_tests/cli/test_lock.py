"""Two runs in one folder: the second is refused, a run that was killed is in nobody's way."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adadagrad_kernels.cli import main
from adadagrad_kernels.cli.lock import NAME, FolderLock
from adadagrad_kernels.training.errors import UsageError

RUN = ["train", "--model", "logistic", "--batch-size", "4", "--max-batch", "200", "--quiet"]
LONG, SHORT = ["--samples", "500K"], ["--samples", "600"]


@pytest.fixture
def other(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Another process that trains in a folder, with a checkpoint after every few steps."""
    out = tmp_path / "run"
    options = [*RUN, *LONG, "--eta", "10", "--checkpoint-every", "1000", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "adadagrad_kernels", *options],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (out / "checkpoint.adak").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process, out
    finally:
        process.kill()
        process.wait()


def test_a_second_run_is_refused_and_names_the_first(
    other: tuple[subprocess.Popen[bytes], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    process, out = other
    os.kill(process.pid, signal.SIGSTOP)  # so that the files stand still
    before = {path: path.read_bytes() for path in out.iterdir()}
    commands = [[*RUN, *LONG, "--eta", "10", option] for option in ("--resume", "--overwrite")]
    for command in (*commands, ["demo", "--samples", "8", "--quiet"]):
        assert main([*command, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"{out} is in use by process {process.pid} on {platform.node()}: wait for" in error
        assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_killed_run_leaves_its_folder_free(
    other: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, out = other
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / NAME).exists(), "kill -9 cleans nothing up"
    assert main([*RUN, *SHORT, "--eta", "10", "--out", str(out), "--overwrite"]) == 0
    assert not (out / NAME).exists()


def test_a_run_that_fails_leaves_its_folder_free(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    with lock, pytest.raises(UsageError, match=f"in use by process {os.getpid()}"):
        FolderLock(tmp_path).__enter__()
    with pytest.raises(KeyError), lock:
        raise KeyError
    assert os.listdir(tmp_path) == []
    with FolderLock(tmp_path):
        assert os.listdir(tmp_path) == [NAME]


def test_a_lock_file_that_is_removed_in_the_moment_of_locking_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, 0

    def late(descriptor: int, flags: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            (tmp_path / NAME).unlink()
        flock(descriptor, flags)

    monkeypatch.setattr(fcntl, "flock", late)
    with FolderLock(tmp_path):
        assert calls == 2
        with pytest.raises(UsageError):
            FolderLock(tmp_path).__enter__()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(descriptor: int, flags: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with FolderLock(tmp_path):
        assert "cannot be locked" in capsys.readouterr().err
