"""Checkpoints: exact round trips, every damage found, the old one never lost."""

from __future__ import annotations

import builtins
import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from adadagrad_kernels.cli.checkpoint import check_same_run, load_checkpoint, save_checkpoint
from adadagrad_kernels.errors import CheckpointError

STATE = {
    "weights": torch.arange(1000, dtype=torch.float32) / 7,
    "nested": {"counts": [1, 2**40], "text": "norm", "none": None, "half": 0.5},
    "random": torch.get_rng_state(),
}


def assert_equal(loaded: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert loaded.dtype == expected.dtype
        assert torch.equal(loaded, expected)
    elif isinstance(expected, dict):
        assert loaded.keys() == expected.keys()
        for name in expected:
            assert_equal(loaded[name], expected[name])
    else:
        assert loaded == expected


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.adak"
    save_checkpoint(path, STATE)
    return path


def test_round_trip(path: Path) -> None:
    assert_equal(load_checkpoint(path), STATE)
    assert os.listdir(path.parent) == [path.name]


def test_every_truncation_is_found(path: Path) -> None:
    content = path.read_bytes()
    for length in [0, 1, 8, 12, 51, 52, 53, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"found .* expected") as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)


def test_every_damaged_byte_is_found(path: Path) -> None:
    content = path.read_bytes()
    for position in [*range(0, 60), *range(60, len(content), 97), len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_surplus_bytes_are_found(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"found \d+ bytes of content, expected \d+"):
        load_checkpoint(path)


def test_another_format_version_is_named(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8] += 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="found format version 2, expected 1; resume with"):
        load_checkpoint(path)


def test_another_file_is_named(path: Path) -> None:
    torch.save(STATE, path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_run(path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(path.parent / "attacked"),)

    save_checkpoint(path, {"state": Attack()})
    with pytest.raises(CheckpointError, match="could run code and are not read") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value), "torch's advice to read it all the same"
    assert not (path.parent / "attacked").exists()


@pytest.mark.parametrize("other", [{"epoch": 3}, ["a", "list"], {**STATE, "weights": None}])
def test_other_content_is_named(path: Path, other: Any) -> None:
    if isinstance(other, dict):
        save_checkpoint(path, other)
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(builtins, "dict", lambda state: state)
            save_checkpoint(path, other)
    content = {"weights": torch.Tensor, "nested": dict, "random": torch.Tensor}
    with pytest.raises(CheckpointError, match=r"holds .*, expected nested, random, weights: not"):
        load_checkpoint(path, content)
    save_checkpoint(path, STATE)
    assert_equal(load_checkpoint(path, content), STATE)


def test_another_run_says_which_options_differ() -> None:
    saved = {"--lr": 0.1, "--seed": 0, "--test": "norm"}
    path = Path("checkpoint.adak")
    check_same_run(path, saved, dict(saved))
    with pytest.raises(CheckpointError) as caught:
        check_same_run(path, saved, {"--lr": 0.2, "--seed": 0, "--test": None})
    assert "--lr was 0.1 and is now 0.2, --test was norm and is now None;" in str(caught.value)
    assert "--seed" not in str(caught.value)


FAILING_CALLS = ["write", "flush", "fsync", "replace"]


@pytest.fixture(params=FAILING_CALLS)
def full_disk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """One of the calls on the way to a new checkpoint reports a full disk."""

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if request.param in ("fsync", "replace"):
        monkeypatch.setattr(os, request.param, fail)
    else:
        opened = Path.open

        class Full:
            def __init__(self, file: Any) -> None:
                self._file = file

            def __enter__(self) -> Any:
                setattr(self, request.param, fail)
                return self

            def __exit__(self, *details: object) -> None:
                self._file.close()

            def __getattr__(self, name: str) -> Any:
                return getattr(self._file, name)

        monkeypatch.setattr(Path, "open", lambda file, mode: Full(opened(file, mode)))


@pytest.mark.usefixtures("full_disk")
def test_full_disk_keeps_the_last_good_checkpoint(path: Path) -> None:
    with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
        save_checkpoint(path, {"weights": torch.zeros(10)})
    assert_equal(load_checkpoint(path), STATE)
    assert os.listdir(path.parent) == [path.name]


def test_file_size_limit_keeps_the_last_good_checkpoint(path: Path) -> None:
    """The operating system itself refuses, in the middle of the file."""
    limit, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    assert_equal(load_checkpoint(path), STATE)
    assert os.listdir(path.parent) == [path.name]


def test_what_a_kill_leaves_behind_is_in_nobodys_way(path: Path) -> None:
    (path.parent / "checkpoint.adak.tmp").write_bytes(path.read_bytes()[:100])
    assert_equal(load_checkpoint(path), STATE)
    save_checkpoint(path, {"next": 1})
    assert load_checkpoint(path) == {"next": 1}
    assert os.listdir(path.parent) == [path.name]
