"""Pyright on a user's program and on the public names; mypy on the program is `make typecheck`."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import typed_program

import adadagrad_kernels

PROGRAM = Path(typed_program.__file__)
#: At its strictest, but for what is said of torch, whose own names are untyped in part.
SETTINGS = {
    "typeCheckingMode": "strict",
    "reportUnknownMemberType": False,
    "reportUnknownArgumentType": False,
}


def pyright(folder: Path, *arguments: str) -> dict[str, Any]:
    """What it finds in that folder, with the packages of this interpreter."""
    pytest.importorskip("pyright", reason="pyright is not installed")
    here = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", *arguments],
        cwd=folder,
        env={**os.environ, "PATH": here, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of pyright: in the program, and in one where two words are wrong."""
    folder = tmp_path_factory.mktemp("programs")
    program = PROGRAM.read_text(encoding="utf-8")
    wrong = program.replace('    name = "doubling"', "    name = 2", 1)
    wrong = wrong.replace("controller.update(", "controller.updates(", 1)
    (folder / "pyrightconfig.json").write_text(json.dumps(SETTINGS))
    (folder / "right.py").write_text(program)
    (folder / "wrong.py").write_text(wrong)
    found = pyright(folder)
    assert found["summary"]["filesAnalyzed"] == 2
    texts = {"right": "", "wrong": ""}
    for problem in found["generalDiagnostics"]:
        line = problem["range"]["start"]["line"] + 1
        texts[Path(problem["file"]).stem] += f"{line}: {problem['message']}\n"
    return texts


def test_pyright_accepts_the_program(errors: dict[str, str]) -> None:
    assert errors["right"] == ""


def test_pyright_sees_what_is_wrong(errors: dict[str, str]) -> None:
    """An attribute that is not what a controller asks for, and a name that it does not have."""
    assert '"name" is an incompatible type' in errors["wrong"]
    assert '"updates" for class "BatchController"' in errors["wrong"]


MODULES = ["ops", "optim", "criteria", "batching", "statistics", "distributed", "writers"]
TRAINERS = ["accelerate", "fabric", "huggingface", "lightning"]
#: Their base class is of a library whose own types pyright does not know.
OF_A_LIBRARY = ("huggingface.trainer.AdaptiveMixin", "huggingface.trainer.AdaptiveTrainer")


def public_names() -> set[str]:
    """Where each public class and function is defined."""
    found = set()
    package = adadagrad_kernels.__name__
    names = [*MODULES, *(f"integrations.{trainer}" for trainer in TRAINERS)]
    for name in [package, *(f"{package}.{name}" for name in names)]:
        module = importlib.import_module(name)
        for value in (getattr(module, public) for public in module.__all__):
            if hasattr(value, "__qualname__"):
                found.add(f"{value.__module__}.{value.__qualname__}")
    return found


def test_pyright_knows_the_type_of_everything_public(tmp_path: Path) -> None:
    """No attribute whose type another checker could infer otherwise."""
    for library in ("accelerate", "lightning", "transformers"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    arguments = ["--verifytypes", adadagrad_kernels.__name__, "--ignoreexternal"]
    symbols = pyright(tmp_path, *arguments)["typeCompleteness"]["symbols"]
    public = public_names()
    listed = {symbol["name"] for symbol in symbols}
    assert len(public & listed) > 70
    assert public <= listed
    ambiguous = [
        symbol["name"]
        for symbol in symbols
        if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]
        if symbol["name"] in public or symbol["name"].rpartition(".")[0] in public
        if not symbol["name"].endswith(OF_A_LIBRARY)
    ]
    assert ambiguous == []


def test_the_program_learns_with_every_policy() -> None:
    for controller in typed_program.controllers():
        first, second = typed_program.train(controller, epochs=2)
        assert second < first


def test_its_sources_and_kernels_agree() -> None:
    model = torch.nn.Linear(3, 1)
    first, *others = typed_program.measured(model)
    for other in others:
        assert other.sum_sq_norms == pytest.approx(first.sum_sq_norms, rel=1e-5)
        assert other.mean_sq_norm == pytest.approx(first.mean_sq_norm, rel=1e-5)
    torch.testing.assert_close(*typed_program.kernels())
    assert len(typed_program.optimizers(model)) == 3
