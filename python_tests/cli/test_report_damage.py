"""`adadagrad-kernels report` names file and line of what is damaged, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adadagrad_kernels.cli import main


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *runs: object) -> str:
    assert main(["report", *map(str, runs), "--out", str(folder / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (folder / "out").exists()
    return error


LINES = [json.dumps({"samples_seen": 100 * step, "loss": 1 / step}) for step in range(1, 5)]


@pytest.mark.parametrize(
    ("damage", "place", "message"),
    [
        ([LINES[0], LINES[1][:20], LINES[2]], 2, "no JSON object"),
        ([LINES[0], "", LINES[2]], 2, "no JSON object"),
        ([LINES[0], "[1, 2]", LINES[2]], 2, "no JSON object"),
        ([LINES[0], '{"steps": 2}', LINES[2]], 2, "no samples_seen"),
        ([LINES[0], '{"samples_seen": null}', LINES[2]], 2, "samples_seen is None"),
        ([LINES[0], '{"samples_seen": true}', LINES[2]], 2, "samples_seen is True"),
        ([LINES[0], '{"samples_seen": -1}', LINES[2]], 2, "samples_seen is -1"),
        ([LINES[2], LINES[3], LINES[0]], 3, "samples_seen falls from 400 to 100"),
        ([LINES[0], '{"samples_seen": 200, "train_loss": "low"}'], 2, "train_loss is 'low'"),
        ([LINES[0], '{"samples_seen": 200, "test/eta_min": []}'], 2, "test/eta_min is []"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: list[str],
    place: int,
    message: str,
) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(damage) + "\n")
    assert f"{file}:{place}: {message}" in refused(capsys, tmp_path, file)


def test_what_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path
    (folder / "cnn-seed0").mkdir()
    (folder / "cnn-seed0" / "metrics.jsonl").write_text("\n".join(LINES))
    assert "nowhere: no such file; give a folder" in refused(capsys, folder, folder / "nowhere")
    (folder / "empty").mkdir()
    assert "metrics.jsonl: no such file" in refused(capsys, folder, folder / "empty")
    (folder / "empty" / "metrics.jsonl").touch()
    assert "holds no line yet" in refused(capsys, folder, folder / "empty")
    twice = [folder / "cnn-seed0", folder / "cnn-seed0" / "metrics.jsonl"]
    assert "given twice" in refused(capsys, folder, *twice)
