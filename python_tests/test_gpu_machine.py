"""The GPU report, rehearsed in an environment like a GPU machine's: what is called wrong there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".ci" / "gpu_rehearsal"
if not SCRIPT.exists():
    pytest.skip("no .ci here: the tests run away from the sources", allow_module_level=True)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    loader = SourceFileLoader("gpu_rehearsal", str(SCRIPT))
    spec = spec_from_loader("gpu_rehearsal", loader)
    assert spec is not None
    module = module_from_spec(spec)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    return module


def _part(name: str, status: str = "done") -> dict[str, Any]:
    return {"name": name, "status": status, "seconds": 2.4, "details": "why" * (status != "done")}


def test_its_releases_are_those_of_the_row_and_the_document(script: ModuleType) -> None:
    compat = (ROOT / ".ci" / "compat").read_text(encoding="utf-8")
    assert f'"{script.PYTHON}", "{script.TORCH}", "g++", rehearsal=True' in compat
    text = (ROOT / "docs" / "internals" / "gpu.md").read_text(encoding="utf-8")
    for pin in (f"Python {script.PYTHON}", script.TORCH, script.TRITON):
        assert pin.replace("==", " ") in text


def test_another_python_is_refused(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "PYTHON", "3.99")
    with pytest.raises(SystemExit, match=r"run it with Python 3\.99"):
        script.environment()


def test_only_what_needs_a_device_may_be_skipped(script: ModuleType) -> None:
    parts = [_part("build"), _part("tests", "skipped"), _part("memcheck-cpu", "skipped")]
    assert script.problems(parts) == []
    parts += [_part("smoke", "in part"), _part("ops", "skipped"), _part("tests", "failed")]
    parts += [_part("compile", "time limit")]
    assert script.problems(parts) == [
        "smoke: in part, why", "ops: skipped, why", "tests: failed, why",
        "compile: time limit, why",
    ]  # fmt: skip
    assert script.summary(parts[:2]) == "build done 2 s, tests skipped 2 s"


@pytest.mark.parametrize("fault", ["", "a part", "the home", "the status", "no report"])
def test_a_rehearsal_that_goes_wrong_says_what(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    """The report is a program of the test's own; its environment is what the script gives it."""
    parts = [_part("build"), _part("smoke", "in part" if fault == "a part" else "done")]
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\nfrom pathlib import Path\n"
        "out = Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "assert '--rehearse' in sys.argv and sys.argv[-2:] == ['--minutes', '3']\n"
        "assert 'PYTHONPATH' not in os.environ and Path(os.environ['HOME']) == Path.cwd()\n"
        "assert out.is_dir() and not (out / 'report.json').exists()\n"
        f"if {fault == 'no report'}:\n    sys.exit(2)\n"
        f"(out / 'report.json').write_text({json.dumps({'parts': parts})!r})\n"
        f"if {fault == 'the home'}:\n    Path('.cache').touch()\n"
        f"sys.exit({int(fault == 'the status')})\n",
        "utf-8",
    )
    program.chmod(0o755)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.json").write_text('{"parts": []}', "utf-8")  # an earlier one's
    monkeypatch.setattr(script, "environment", lambda: program)
    monkeypatch.setattr(script, "without_network", lambda: [])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert script.main(["--minutes", "3"]) == int(bool(fault))
    said = capsys.readouterr().out.splitlines()[-1]
    assert (
        said
        == {
            "": "rehearsed: build done 2 s, smoke done 2 s",
            "a part": "wrong: smoke: in part, why",
            "the home": "wrong: .cache was written",
            "the status": "wrong: exit status 1",
            "no report": "wrong: no report was written, exit status 2",
        }[fault]
    )


def test_there_is_no_network_or_it_is_said(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    command = script.without_network()
    if not command:
        assert "is not permitted here" in capsys.readouterr().out
        return
    links = "import os; print(sorted(os.listdir('/sys/class/net')), open('/proc/net/dev').read())"
    said = subprocess.run([*command, sys.executable, "-c", links], capture_output=True, text=True)
    assert re.findall(r"^\s*(\w+):", said.stdout, re.MULTILINE) == ["lo"]
