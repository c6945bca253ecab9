"""critical-batch and probe on a run of the digits: files, going on after a stop, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from adadagrad_kernels.cli import main, saved_run
from adadagrad_kernels.training.branches import Branches
from adadagrad_kernels.training.data import Data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "fixed"
    options = ["--model", "logistic", "--optimizer", "sgd", "--lr", "0.02", "--test", "none"]
    budget = ["--batch-size", "8", "--samples", "320", "--quiet"]
    assert main(["train", *options, *budget, "--out", str(out)]) == 0
    return out


def command(run: Path, out: Path, *more: str) -> list[str]:
    sizes = ["--sizes", "4,8,16,32", "--rules", "linear,none", "--seeds", "1", "--samples", "160"]
    return ["critical-batch", str(run), "--out", str(out), *sizes, "--quiet", *more]


def test_a_stopped_command_goes_on_where_it_was(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(command(run, whole, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert [fit["rule"] for fit in found["fits"]] == ["linear", "none", "best"]
    assert {point["size"] for point in found["branches"]} == {4, 8, 16, 32}
    assert found["noise_scale"]["interval"][0] < found["noise_scale"]["value"]
    own = next(point for point in found["branches"] if point["size"] == 8)
    assert own["curve"][0][1] > found["target_loss"] >= own["curve"][-1][1]
    assert (whole / "critical_batch.png").read_bytes().startswith(b"\x89PNG")

    losses, count = Branches.losses, []

    def interrupted(self, *arguments, **options):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return losses(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Branches, "losses", interrupted)
        assert main(command(run, stopped)) == 130
    written = (stopped / "branches.jsonl").read_text().splitlines()
    assert len(written) == 1 + 3
    count.clear()

    def counted(self, *arguments, **options):
        count.append(1)
        return losses(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Branches, "losses", counted)
        assert main(command(run, stopped, "--json")) == 0
    assert len(count) == 7 - 3
    capsys.readouterr()
    kept = [json.loads((out / "critical_batch.json").read_text()) for out in (whole, stopped)]
    assert kept[0]["branches"] == kept[1]["branches"]
    assert kept[0]["fits"] == kept[1]["fits"]

    assert main([*command(run, stopped), "--most", "3"]) == 2
    assert "holds branches with another most: give the same" in capsys.readouterr().err
    (stopped / "branches.jsonl").write_text("{}\n[1]\n")
    assert main(command(run, stopped)) == 1
    assert "damaged" in capsys.readouterr().err


def test_too_few_sizes_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["critical-batch", str(run), "--out", str(tmp_path), "--sizes", "8,16", "--seeds", "1"]
    assert main([*few, "--samples", "160", "--rules", "none"]) == 1
    assert "too few points for a fit: branches of 2 sizes (8, 16)" in capsys.readouterr().err


def test_what_is_no_run_of_these_data(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["critical-batch", str(tmp_path)]) == 1
    assert "is not there: give the folder of a run of train" in capsys.readouterr().err
    load = saved_run.load_data

    def other(name: str, folder: Path | None) -> Data:
        data = load(name, folder)
        return replace(data, checksum=data.checksum ^ 1)

    monkeypatch.setattr(saved_run, "load_data", other)
    assert main(["critical-batch", str(run), "--out", str(tmp_path / "x")]) == 1
    assert "give the run's own data" in capsys.readouterr().err


def test_probe_writes_the_table_that_plan_reads(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a" / "hardware.json"
    assert main(["probe", str(run), "--out", str(table), "--sizes", "4,1024", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(table.read_text())
    assert [row["batch"] for row in found["steps"]] == [4, 1024]
    assert all(0 < row["seconds"] < 5 for row in found["steps"])
    assert found["gradient_bytes"] == 4 * (64 * 10 + 10)
    # Times of a busy machine may be out of order; these are put right.
    found["steps"] = [{"batch": 4, "seconds": 0.001}, {"batch": 1024, "seconds": 0.01}]
    table.write_text(json.dumps(found))
    assert main(["plan", str(run), "--hardware", str(table)]) == 0
    assert "takes the fewest seconds" in capsys.readouterr().out
