"""`adadagrad-kernels doctor`: what it prints of a function's result, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adadagrad_kernels.cli import main
from adadagrad_kernels.integrations.checkup import TRAPS

MODULE = """
import torch
from torch.utils.data import DataLoader

def stock():
    return {"train": DataLoader(range(8), batch_size=4, drop_last=True)}

def clean():
    return DataLoader(range(8), batch_size=4), torch.nn.Linear(2, 1)

def number():
    return 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "trap_makers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "trap_makers"


def test_a_finding_ends_with_one(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{module}:stock"]) == 1
    said = capsys.readouterr().out
    trap = next(trap for trap in TRAPS if trap.code == "drop-last-stock")
    assert said.startswith("looked at  train\ntrainers   transformers ")
    assert "drop-last-stock\n  where   train: BatchSampler(drop_last=True)\n  means   it" in said
    assert " ".join(trap.reason.replace("`", "").split()) in " ".join(said.split())
    assert " ".join(trap.change.replace("`", "").split()) in " ".join(said.split())
    assert said.endswith("\n\n1 finding\n")


def test_nothing_found_ends_with_zero(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{module}:clean"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("looked at  DataLoader, Linear\n")
    assert said.endswith("\n\nnothing found\n")


def test_json(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"{module}:stock", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["looked_at"] == ["train"]
    assert set(told["trainers"]) == {"transformers", "accelerate", "lightning"}
    (finding,) = told["findings"]
    assert finding["code"] == "drop-last-stock"
    assert set(finding) == {"code", "where", "reason", "change"}
    assert main(["doctor", f"{module}:clean", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_the_installation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"backends": {"cpu": None}, "openmp": ["one", "another"]}
    monkeypatch.setattr("adadagrad_kernels.backends.describe", lambda: said)
    assert main(["doctor"]) == 1
    assert "several-openmp\n  where   one, another\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "code", "message"),
    [
        ("trap_makers", 2, "expected MODULE:FUNCTION"),
        ("trap_makers:nothing", 2, "has no nothing"),
        ("no_such_module:make", 2, "could not be imported"),
        ("trap_makers:number", 1, "got a int; accepted are a DataLoader"),
    ],
)
def test_what_it_cannot_look_at(
    module: str, capsys: pytest.CaptureFixture[str], path: str, code: int, message: str
) -> None:
    assert main(["doctor", path]) == code
    assert message in capsys.readouterr().err


def test_help_has_every_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f"  {trap.code} ") for line in lines) for trap in TRAPS)
    assert max(map(len, lines)) <= 100
