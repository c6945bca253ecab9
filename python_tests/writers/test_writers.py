"""Writers: what was given is what their readers find, whatever comes late or is not finite."""

from __future__ import annotations

import csv
import doctest
import importlib
import json
import math
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adadagrad_kernels.errors import MissingDependencyError
from adadagrad_kernels.writers import (
    CsvWriter,
    JsonlWriter,
    MetricsWriter,
    TensorBoardWriter,
    WandbWriter,
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


def test_tensorboard_has_both_axes(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    write(TensorBoardWriter(tmp_path))
    events = EventAccumulator(str(tmp_path), {"tensors": 0})
    events.Reload()

    def points(tag: str) -> list[tuple[int, Any]]:
        return [
            (event.step, tensor_util.make_ndarray(event.tensor_proto).item())
            for event in events.Tensors(tag)
        ]

    for axis, places in (("samples", [8, 16, 40, 2**24 + 1]), ("steps", [1, 2, 3, 4])):
        found = points(f"{axis}/loss")
        assert [place for place, _ in found] == places
        losses = [value for _, value in found]
        assert losses == pytest.approx([2.5, 1.5, math.nan, 1 / 3], nan_ok=True, rel=1e-15)
        assert points(f"{axis}/test_accuracy") == [(places[1], 0.75)]
        assert points(f"{axis}/test/eta_min") == [(places[0], math.inf)]
        assert [value for _, value in points(f"{axis}/samples_seen")] == [8, 16, 40, 2**24 + 1]
    texts = points("texts/run/text_summary")
    assert texts == [(8, b"a, b"), (40, b'say "c"\nor d')], "a text is written when it changes"


def records(content: bytes) -> Iterator[bytes]:
    """The records of LevelDB's log format, in which wandb keeps a run that is offline."""
    assert content[:4] in (b":W&B", b"")
    place, record = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block is too short for a header
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if place + 7 + length > len(content):
            return  # not written whole yet
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def offline_history(folder: Path) -> tuple[list[dict[str, Any]], list[Any], int | None]:
    """Reads what wandb wrote: the rows, the definitions of metrics, the exit code.

    Its service writes in a process of its own, and may not be done when the run is finished.
    """
    (file,) = folder.rglob("run-*.wandb")
    patience = time.monotonic() + 30
    while (found := parse_history(file))[2] is None and time.monotonic() < patience:
        time.sleep(0.05)
    return found


def parse_history(file: Path) -> tuple[list[dict[str, Any]], list[Any], int | None]:
    from wandb.proto import wandb_internal_pb2

    rows, metrics, exit_code = [], [], None
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append(
                {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in items
                }
            )
        elif record.WhichOneof("record_type") == "metric":
            metrics.append(record.metric)
        elif record.WhichOneof("record_type") == "exit":
            exit_code = record.exit.exit_code
    return rows, metrics, exit_code


@pytest.fixture
def offline_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")


@pytest.mark.usefixtures("offline_wandb")
def test_wandb_offline(tmp_path: Path) -> None:
    write(WandbWriter(tmp_path / "run", name="a", config={"lr": 0.1}, mode="offline"))
    rows, metrics, exit_code = offline_history(tmp_path / "run")
    rows = [{key: row[key] for key in row if not key.startswith("_")} for row in rows]
    assert [row["samples_seen"] for row in rows] == [8, 16, 40, 2**24 + 1]
    assert [row["steps"] for row in rows] == [1, 2, 3, 4]
    assert rows[1] == {
        "samples_seen": 16,
        "steps": 2,
        "loss": 1.5,
        "test_accuracy": 0.75,
        "run": "a, b",
    }
    assert rows[3]["loss"] == 1 / 3
    assert math.isnan(float(rows[2]["loss"]))
    assert float(rows[0]["test/eta_min"]) == math.inf
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in metrics}
    assert axes["samples_seen"] == ""
    assert axes["steps"] == axes["*"] == "samples_seen"
    assert exit_code == 0


@pytest.mark.usefixtures("offline_wandb")
def test_wandb_notes_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Writers([WandbWriter(tmp_path, mode="offline")]):
        raise ZeroDivisionError
    assert offline_history(tmp_path)[2] == 1


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        (TensorBoardWriter, "torch.utils.tensorboard", "tensorboard"),
        (WandbWriter, "wandb", "wandb"),
    ],
)
def test_a_missing_package_names_its_extra(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], MetricsWriter],
    module: str,
    extra: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingDependencyError, match=rf"pip install 'adadagrad-kernels\[{extra}\]'"
    ):
        make(tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
