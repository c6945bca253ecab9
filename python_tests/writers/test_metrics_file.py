"""`metrics.jsonl`: valid JSON whatever the numbers, exact cutting on resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adadagrad_kernels.errors import CheckpointError
from adadagrad_kernels.writers.metrics_file import MetricsFile


def lines(path: Path) -> list[object]:
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_infinities_and_nan_become_null(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.write({"a": float("inf"), "b": [1, float("nan")], "c": {"d": -float("inf")}})
    assert lines(path) == [{"a": None, "b": [1, None], "c": {"d": None}}]


def test_resume_cuts_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.write({"step": 1})
        offset = metrics.sync()
        metrics.write({"step": 2})
    with path.open("ab") as file:
        file.write(b'{"step": 3, "lo')  # killed in the middle of a line
    with MetricsFile(path, offset) as metrics:
        metrics.write({"step": 2})
        assert metrics.sync() == path.stat().st_size
    assert lines(path) == [{"step": 1}, {"step": 2}]


def test_a_new_run_begins_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("old\n")
    with MetricsFile(path):
        assert path.read_text() == ""


@pytest.mark.parametrize("content", [None, b"", b"123456789"])
def test_resume_refuses_a_file_that_lost_lines(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"found \d bytes, but 10 when the checkpoint"):
        MetricsFile(path, 10)
    assert (path.read_bytes() if path.exists() else None) == content
