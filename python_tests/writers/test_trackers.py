"""TensorBoard and Weights & Biases: their own readers find what was written."""

from __future__ import annotations

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
from adadagrad_kernels.writers import MetricsWriter, TensorBoardWriter, WandbWriter, Writers

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
