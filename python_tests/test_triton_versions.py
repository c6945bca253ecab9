"""`make triton-versions` says of every release of Triton what is true, and the document has it."""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.version import Version

from adadagrad_kernels.backends.triton import OLDEST_TRITON

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "triton_versions"
if not SCRIPT.exists():
    pytest.skip("no .ci here: the tests run away from the sources", allow_module_level=True)

TAKEN = {"version": "3.6.0", "refused": None, "knows": True, "auto": "triton"}
REFUSED = {"version": "3.4.0", "refused": "too old", "knows": False, "auto": "reference"}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("triton_versions", str(SCRIPT))
    spec = spec_from_loader("triton_versions", loader)
    assert spec is not None
    module = module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def test_releases_are_those_since_3_0_in_their_order(script: ModuleType) -> None:
    said = "WARNING: experimental\ntriton (3.10.0)\nAvailable versions: 3.10.0, 3.9.1, 3.0.0, 2.3.1"
    assert script.released(said) == ["3.0.0", "3.9.1", "3.10.0"]


def test_what_the_package_says_of_a_release_must_be_true(script: ModuleType) -> None:
    assert script.verdict("3.6.0", TAKEN) is None
    assert script.verdict("3.4.0", REFUSED) == "too old"
    knows = "it knows disable_licm, and the package says: "
    for version, answer, wrong in (
        ("3.6.0", {**TAKEN, "knows": False}, knows.replace("knows", "does not know") + "taken"),
        ("3.6.0", {**TAKEN, "auto": "reference"}, "auto takes reference, and the package says: "),
        ("3.4.0", {**REFUSED, "knows": True}, f"{knows}too old"),
        ("3.4.0", {**REFUSED, "auto": "triton"}, "auto takes triton, and the package says: too"),
        ("3.6.0", {**TAKEN, "version": "3.7.1"}, "Triton 3.7.1 was found in its place"),
    ):
        with pytest.raises(script.FailedError, match=re.escape(wrong)):
            script.verdict(version, answer)


def test_an_old_release_is_asked_and_refused_and_auto_goes_on(
    script: ModuleType, tmp_path: Path
) -> None:
    """The question itself, put to a package that stands for Triton 3.4."""
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text(
        "from . import language\n__version__ = '3.4.0'\n", "utf-8"
    )
    (tmp_path / "triton" / "language.py").write_text(
        "class range:\n    def __init__(self, start, end=None, num_stages=None): pass\n", "utf-8"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    command = (sys.executable, "-B", "-c", script.ASK)
    said = script.run(tmp_path / "log", "question", *command, environment=environment)
    reason = script.verdict("3.4.0", json.loads(said.splitlines()[-1]))
    assert "Triton 3.4.0 does not know `disable_licm` of loops" in reason


def _facts(*kernels: tuple[str, int], broken: list[dict[str, Any]]) -> dict[str, Any]:
    listed = [{"name": name, "architecture": architecture} for name, architecture in kernels]
    return {"kernels": listed, "broken": broken}


def test_every_kernel_must_be_compiled_for_every_architecture(script: ModuleType) -> None:
    whole = [("sweep", 80), ("sweep", 90), ("step", 80), ("step", 90)]
    said = script.compilation(_facts(*whole, broken=[]), (80, 90))
    assert said == "compiled: 2 kernels for sm_80, sm_90; within their budgets"
    broken = [
        {"kernel": "step", "architecture": 80, "budget": "registers", "found": "168"},
        {"kernel": "step", "architecture": 90, "budget": "registers", "found": "168"},
        {"kernel": "a kernel of CUDA", "architecture": 0, "budget": "a kernel", "found": "none"},
    ]
    said = script.compilation(_facts(*whole, broken=broken), (80, 90))
    assert said.endswith("; 1 over the budgets")
    broken += [{"kernel": "sweep", "architecture": 80, "budget": "spills", "found": "8 B of stack"}]
    said = script.compilation(_facts(*whole, broken=broken), (80, 90))
    assert said.endswith("; 2 over the budgets, of which sweep spill")
    for some in (whole[:3], []):
        with pytest.raises(script.FailedError, match="kernels x 2 compiled"):
            script.compilation(_facts(*some, broken=[]), (80, 90))


def test_what_pip_does_not_have_is_said(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such(log: Path, what: str, *command: object, **_: object) -> str:
        log.write_text("Looking\nERROR: No matching distribution found for triton==3.99\n", "utf-8")
        raise script.FailedError(what)

    monkeypatch.setattr(script, "run", no_such)
    _, result = script.attempt("3.99", (90,), [], tmp_path)
    assert result == "not installed: ERROR: No matching distribution found for triton==3.99"
    assert script.status([result]) == 1, "none was compiled"
    assert script.status([result, "compiled: 1", "refused: too old"]) == 0
    assert script.status(["compiled: 1", "failed: tests"]) == 1
    lines = script.table([("3.99", 2.0, result), ("3.6.0", 61.4, "compiled: 1")]).splitlines()
    assert lines[2].split() == ["3.6.0", "61", "compiled:", "1"]


def test_the_document_has_what_the_package_takes(script: ModuleType) -> None:
    """Every release since 3.0 up to the pinned one and more, as the check of the version has it."""
    text = (ROOT / "docs" / "reference" / "versions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (3\.\d+\.\d+(?:, 3\.\d+\.\d+)*) \| ([^|]+) \|", text, re.MULTILINE)
    found = {Version(v): said for versions, said in rows for v in versions.split(", ")}
    pins = (ROOT / "requirements" / "cuda.txt").read_text(encoding="utf-8")
    (pinned,) = re.findall(r"^triton==(\S+)$", pins, re.MULTILINE)
    assert {Version("3.0.0"), Version("3.6.0"), Version(pinned)} <= found.keys()
    oldest = Version(".".join(map(str, OLDEST_TRITON)))
    for version, said in found.items():
        assert said.startswith("compiled" if version >= oldest else "refused"), version


def test_its_tests_exist(script: ModuleType) -> None:
    assert [name for name in script.TESTS if not (ROOT / name).exists()] == []
