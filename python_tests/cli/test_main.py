"""The commands from outside: exit codes, one-line errors, help, info."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.programs import Programs

from adadagrad_kernels import backends
from adadagrad_kernels.cli import main
from adadagrad_kernels.cli.info import format_information
from adadagrad_kernels.training.catalogue import CONSTANTS, OPTIMIZERS, TESTS
from adadagrad_kernels.training.data_sets import DATA_SETS
from adadagrad_kernels.training.readers import shape_texts


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Returns the exit code and what stderr says, which must be one line for our own errors."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        return int(stop.code or 0), capsys.readouterr().err
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert error.startswith("adadagrad-kernels: error: ")
    return code, error


def test_module_entry_point() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "adadagrad_kernels", "info", "--json"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    information = json.loads(run.stdout)
    assert information["versions"]["torch"] == torch.__version__
    assert information["backends"]["reference"] is None
    assert information["threads"] >= 1


def test_info_lists_what_the_backends_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    description = {
        "backends": {"reference": None, "cpu": "the compiled module is missing"},
        "isa": {
            "compiled": ["scalar", "avx2", "avx512"],
            "supported": ["scalar", "avx2"],
            "active": "avx2",
        },
        "threads": 3,
        "openmp": ["/lib/libgomp.so.1"],
    }
    monkeypatch.setattr(backends, "describe", lambda: description)
    assert main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = len("adadagrad-kernels  ")
    assert {line[start - 1] for line in lines} == {" "}
    assert [line[start:] for line in lines[3:]] == [
        "reference: available",
        "cpu: missing, the compiled module is missing",
        "scalar: supported",
        "avx2: active",
        "avx512: not on this machine",
        "3",
        "/lib/libgomp.so.1",
    ]
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).items() >= description.items()


def test_info_without_compiled_code() -> None:
    information: dict[str, Any] = {
        "versions": {"torch": "2"},
        "backends": {"reference": None},
        "isa": {"compiled": [], "supported": [], "active": None},
        "threads": 1,
        "openmp": [],
    }
    assert "instruction sets  none" in format_information(information)


@pytest.mark.parametrize("command", ["", "info", "train", "demo", "report"])
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command.split(), "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert max(len(line) for line in text.splitlines()) <= 100
    if command == "train":
        for name in (*TESTS, *shape_texts()):
            assert f"\n  {name} " in text, "every test and schedule is explained"
        for name, value in CONSTANTS.items():
            flag = name.replace("_", "-")
            assert f"(default: {value}" in text.partition(f"  --{flag} ")[2].partition("  --")[0]
        told = " ".join(text.partition("  --lr LR  ")[2].partition("  --")[0].split())
        for optimizer, kind in OPTIMIZERS.items():
            assert optimizer in told
            assert str(kind.lr) in told
        digits = DATA_SETS["digits"]
        assert all(f"on digits {lr}" in told for lr in digits.lr.values())
        eta = f"on digits {digits.constants['eta']})"
        assert eta in " ".join(text.partition("  --eta ETA ")[2].partition("  --theta")[0].split())
        assert "adadagrad-kernels train --data mnist" in text
    if command == "report":
        assert "adadagrad-kernels report runs/demo" in text
        assert "seeds of one curve" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith("adadagrad-kernels ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["train", "--data", "cifar"],
        ["train", "--eta", "0"],
        ["train", "--eta", "nan"],
        ["train", "--samples", "-3"],
        ["train", "--resume", "--overwrite"],
        ["train", "--sampl", "3"],
        ["train", "--growth-cap", "1"],
        ["train", "--smoothing", "1"],
        ["train", "--lr-rule", "root"],
        ["train", "--schedule", "step"],
        ["train", "--schedule", "stairs:9"],
        ["train", "--schedule", "0:8 60K:4"],
        ["train", "--schedule", "5:8"],
        ["train", "--schedule", "one-cycle:900"],
        ["train", "--schedule", "late:900,3"],
        ["demo", "--seeds", "0"],
        ["report"],
    ],
)
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, error = refused(capsys, *arguments)
    assert code == 2
    assert "usage: adadagrad-kernels" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--theta 0.5", "of no use to --test norm, only to --test inner-product, augmented, adab"),
        ("--test none --eta 1", "--eta is of no use to --test none, only to --test norm, coord"),
        ("--schedule step:9 --eta 1", "--eta is of no use to --schedule step:9, only to --test"),
        ("--schedule step:9 --test norm", "decides the size without statistics: leave out --test"),
        ("--schedule linear:9 --hysteresis 2", "--hysteresis is of no use to --schedule linear:9"),
        ("--schedule cosine:9 --test-interval 2", "--test-interval is of no use to --schedule"),
        ("--schedule 0:16 --batch-size 8", "not the first size of --schedule, 16: leave it out"),
        ("--schedule plateau:2 --batch-size 64 --max-batch 32", "is above --max-batch 32"),
        ("--schedule one-cycle:900,16", "first 8 is below smallest 16: give sizes in rising"),
        ("--schedule wsd:900 --samples 1K", "a learning rate of 0 from 900 samples on, and --sam"),
        ("--schedule wsd:900", "--samples is 14,370: make them the same"),
        ("--test none --growth-cap 2", "--growth-cap is of no use to --test none"),
        ("--test none --lr-rule sqrt", "--lr-rule is of no use to --test none"),
        ("--test sign --smoothing 0.5", "every coordinate, which --test sign reads"),
        ("--test metric --optimizer sgd", "for --optimizer adagrad, adam, adamw, which have"),
        ("--test cabs --lr-rule linear", "a constant learning rate: leave out --lr-rule"),
        ("--momentum 0.9", "--momentum is for --optimizer sgd, not adagrad"),
        ("--beta2 0.9", "--beta2 is for --optimizer adam, adamw, not adagrad"),
        (
            "--optimizer delayed-adagrad-norm --weight-decay 0.1",
            "--weight-decay is for --optimizer adagrad, adagrad-norm, adagrad-norm-rows, sgd, ",
        ),
        ("--epochs-between 2", "--epochs-between is of no use to --test norm, only to --test div"),
        ("--batch-size 64 --max-batch 32", "--batch-size 64 is above --max-batch 32"),
        ("--batch-size 2000", "is above the size of the training set, 1437"),
        ("--batch-size 1", "begin with 2 or more, or choose --test none"),
        ("--test none --max-batch 32", "--max-batch 32 would not be reached"),
    ],
)
def test_contradictions_exit_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: str, message: str
) -> None:
    out = tmp_path / "run"
    code, error = refused(capsys, "train", "--out", str(out), *arguments.split())
    assert code == 2
    assert message in error
    assert not out.exists()


def test_missing_data_exits_with_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, error = refused(
        capsys, "train", "--data", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path)
    )
    assert code == 1
    assert "found no train-images-idx3-ubyte.gz in" in error


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("BACKEND", "bogus", "ADADAGRAD_KERNELS_BACKEND names the backend 'bogus'; accepted are"),
        ("ISA", "sse9", "ADADAGRAD_KERNELS_ISA=sse9: the instruction set 'sse9' is not available"),
    ],
)
@pytest.mark.parametrize("command", [["info"], ["train", "--samples", "8"]], ids=lambda all: all[0])
def test_an_environment_that_asks_for_what_is_not_there_exits_with_1(
    programs: Programs, tmp_path: Path, command: list[str], variable: str, value: str, said: str
) -> None:
    asked = {f"ADADAGRAD_KERNELS_{variable}": value}
    child = programs.run("-m", "adadagrad_kernels", *command, cwd=tmp_path, env=asked)
    assert child.returncode == 1
    assert child.stdout == ""
    assert child.stderr.startswith(f"adadagrad-kernels: error: {said}")
    assert child.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("arguments", "codes"), [(["info"], {141}), (["--help"], {0, 141})])
def test_output_that_nobody_reads_to_its_end_is_no_error(
    arguments: list[str], codes: set[int]
) -> None:
    """As under `head`: the reader is gone before the first word is written.

    Some versions of argparse ignore it themselves.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "adadagrad_kernels", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parent,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() in codes


def test_out_that_is_a_file_exits_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    code, error = refused(capsys, "train", "--out", str(tmp_path / "file"))
    assert code == 1
    assert "File exists" in error


@pytest.mark.parametrize(
    ("command", "module"), [("train", "sklearn.datasets"), ("demo", "matplotlib.figure")]
)
def test_missing_extra_names_the_remedy(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: str,
    module: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    code, error = refused(capsys, command, "--out", str(tmp_path / "run"))
    assert code == 1
    assert f"needs {module}" in error
    assert "pip install 'adadagrad-kernels[cli]'" in error
