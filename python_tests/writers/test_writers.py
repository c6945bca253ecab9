"""Writers: what was given is what their readers find, whatever comes late or is not finite."""

from __future__ import annotations

import csv
import doctest
import importlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adadagrad_kernels.writers import (
    CsvWriter,
    JsonlWriter,
    MetricsWriter,
    Writers,
    csv_writer,
)

# Samples, step, metrics: names come late and leave again, and numbers are not finite.
STEPS: list[tuple[int, int, dict[str, Any]]] = [
    (8, 1, {"loss": 2.5, "test/eta_min": math.inf, "run": "a, b", "samples_seen": 99}),
    (16, 2, {"loss": 1.5, "test_accuracy": 0.75, "run": "a, b"}),
    (40, 3, {"loss": math.nan, "grad/var": -math.inf, "run": 'say "c"\nor d'}),
    (2**24 + 1, 4, {"loss": 1 / 3}),
]


def write(writer: MetricsWriter) -> None:
    with writer:
        for samples, step, metrics in STEPS:
            writer.write(metrics, samples=samples, step=step)


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    write(JsonlWriter(path))
    lines = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    expected: list[dict[str, Any]] = [
        {"samples_seen": 8, "steps": 1, "loss": 2.5, "test/eta_min": None, "run": "a, b"},
        {"samples_seen": 16, "steps": 2, "loss": 1.5, "test_accuracy": 0.75, "run": "a, b"},
        {"samples_seen": 40, "steps": 3, "loss": None, "grad/var": None, "run": 'say "c"\nor d'},
        {"samples_seen": 2**24 + 1, "steps": 4, "loss": 1 / 3},
    ]
    assert lines == expected


def test_jsonl_continues_where_a_checkpoint_left_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        writer.write({"loss": 3.0}, samples=8, step=1)
        offset = writer.sync()
        writer.write({"loss": 2.0}, samples=16, step=2)
    with JsonlWriter(path, offset) as writer:
        writer.write({"loss": 1.0}, samples=24, step=2)
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [3.0, 1.0]


COLUMNS = ["samples_seen", "steps", "loss", "test/eta_min", "run", "test_accuracy", "grad/var"]


def test_csv_is_what_csv_reads(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.csv"
    write(CsvWriter(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row.values()) for row in rows] == [
        ["8", "1", "2.5", "inf", "a, b", "", ""],
        ["16", "2", "1.5", "", "a, b", "0.75", ""],
        ["40", "3", "nan", "", 'say "c"\nor d', "", "-inf"],
        [str(2**24 + 1), "4", repr(1 / 3), "", "", "", ""],
    ]
    assert list(rows[0]) == COLUMNS
    assert [item.name for item in path.parent.iterdir()] == ["metrics.csv"]


def test_csv_is_what_pandas_reads(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    write(CsvWriter(tmp_path / "metrics.csv"))
    table = pandas.read_csv(tmp_path / "metrics.csv")
    assert list(table.columns) == COLUMNS
    assert table["samples_seen"].tolist() == [8, 16, 40, 2**24 + 1]
    assert table["loss"].tolist() == pytest.approx(
        [2.5, 1.5, math.nan, 1 / 3], nan_ok=True, rel=1e-15
    )
    assert table["test_accuracy"].tolist()[1] == 0.75
    assert table["grad/var"].tolist()[2] == -math.inf


def test_csv_is_complete_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is there when `write` returns; a column that cannot be added harms no row."""
    path = tmp_path / "metrics.csv"
    writer = CsvWriter(path)
    writer.write({"loss": 2.0}, samples=8, step=1)
    assert path.read_text() == "samples_seen,steps,loss\n8,1,2.0\n"

    def full_disk(*arguments: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(csv_writer, "replace_file", full_disk)
        with pytest.raises(OSError, match="No space left"):
            writer.write({"loss": 1.0, "late": 1}, samples=16, step=2)
    assert path.read_text() == "samples_seen,steps,loss\n8,1,2.0\n"
    writer.write({"loss": 1.0, "late": 1}, samples=16, step=2)
    writer.close()
    writer.close()
    assert path.read_text() == "samples_seen,steps,loss,late\n8,1,2.0,\n16,2,1.0,1\n"


def test_csv_of_many_rows_is_widened_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_writer, "_ROWS_AT_ONCE", 4)
    for rows in (3, 4, 9):
        with CsvWriter(tmp_path / "metrics.csv") as writer:
            for row in range(rows):
                writer.write({"loss": row}, samples=row, step=row)
            writer.write({"late": 0.5}, samples=rows, step=rows)
        lines = (tmp_path / "metrics.csv").read_text().splitlines()
        assert lines[1:-1] == [f"{row},{row},{row}," for row in range(rows)]
        assert lines[-1] == f"{rows},{rows},,0.5"


class Recorded:
    """A writer of someone else's, which need not derive from anything here."""

    def __init__(self, calls: list[Any], name: str, broken: bool = False) -> None:
        self.calls, self.name, self.broken = calls, name, broken

    def write(self, metrics: Any, *, samples: int, step: int) -> None:
        self.calls.append((self.name, dict(metrics), samples, step))

    def close(self) -> None:
        self.calls.append((self.name, "closed"))
        if self.broken:
            raise OSError("full")

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def test_several_writers_act_as_one() -> None:
    calls: list[Any] = []
    writers = [Recorded(calls, "a"), Recorded(calls, "b", broken=True)]
    assert all(isinstance(writer, MetricsWriter) for writer in (*writers, Writers(writers)))
    with pytest.raises(OSError, match="full"), Writers(writers) as several:
        several.write({"loss": 1.0}, samples=8, step=1)
    assert calls == [
        ("a", {"loss": 1.0}, 8, 1),
        ("b", {"loss": 1.0}, 8, 1),
        ("b", "closed"),
        ("a", "closed"),
    ]
    calls.clear()
    with pytest.raises(OSError, match="full"):
        Writers(writers).close()
    assert calls == [("b", "closed"), ("a", "closed")]


@pytest.mark.parametrize("module", ["csv_writer", "jsonl_writer", "several"])
def test_examples(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"adadagrad_kernels.writers.{module}"))
    assert results.attempted > 2
    assert results.failed == 0


def test_scalars_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    metrics = {"a": torch.tensor(0.5), "b": np.float32(0.25), "c": np.int64(3)}
    paths = tmp_path / "metrics.jsonl", tmp_path / "metrics.csv"
    for writer in (JsonlWriter(paths[0]), CsvWriter(paths[1])):
        with writer:
            writer.write(metrics, samples=8, step=1)
    line = json.loads(paths[0].read_text())
    assert [line[name] for name in "abc"] == [0.5, 0.25, 3]
    with paths[1].open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[name] for name in "abc"] == ["0.5", "0.25", "3"]
