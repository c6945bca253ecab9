"""Parts of the GPU report do not depend on each other: what one had found stays, the others run."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from support import subprocesses

from benchmarks.gpu import command, gpu_tests, page, parts
from benchmarks.gpu.folder import ROOT, Folder
from benchmarks.gpu.parts import Part

PREAMBLE = f"""
import importlib, sys, time
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
importlib.import_module("benchmarks")
sys.path.remove({str(ROOT)!r})
from benchmarks.gpu.folder import Folder
folder = Folder(Path({{path!r}}))
"""


def _command(folder: Folder, code: dict[str, str]) -> parts.Command:
    """Parts whose processes run ``code``, which has the folder."""

    def command(part: Part, own: Sequence[str], limit: float) -> Sequence[str]:
        text = PREAMBLE.format(path=str(folder.path)) + textwrap.dedent(code[part.name])
        return [sys.executable, "-c", text, *own]

    return command


def test_a_part_that_raises_or_is_late_leaves_the_others_whole(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    code = {
        "raises": """
            folder.keep("raises", right=True)
            raise ValueError("no such kernel")
        """,
        "late": """
            import subprocess
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            folder.keep("late", right=True, child=child.pid)
            time.sleep(600)
        """,
        "crashes": """
            import os
            folder.keep("crashes", right=False)
            os.abort()
        """,
        "good": """
            folder.keep("good", right=True, way=sys.argv[1])
        """,
    }
    two = Part("good", "", 0.5, (("one",), ("other",)))
    every = [Part("raises", "", 0.5), Part("late", "", 0.5), Part("crashes", "", 0.5), two]
    start = time.monotonic()
    outcomes = {
        part.name: parts.run(part, folder, 5.0, os.environ, _command(folder, code))
        for part in every
    }
    assert time.monotonic() - start < 60
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "raises": "failed", "late": "time limit", "crashes": "failed", "good": "done",
    }  # fmt: skip
    assert outcomes["raises"].details == "ValueError: no such kernel"
    assert outcomes["late"].details == "not done after 5 s"
    assert [r["right"] for r in folder.results("raises")] == [True]
    assert [r["right"] for r in folder.results("crashes")] == [False]
    assert sorted(r["way"] for r in folder.results("good")) == ["one", "other"]
    [late] = folder.results("late")
    assert not _runs(late["child"]), "children of what is late are ended with it"


def _runs(process: int) -> bool:
    """Whether it is there, and no zombie that nobody has asked for."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_line_cut_off_in_the_middle_is_left_out(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.keep("ops", left_out="a")
    with (tmp_path / "results/ops.jsonl").open("a") as file:
        file.write('{"part": "ops", "left_o')
    assert [r["left_out"] for r in folder.results("ops")] == ["a"]
    assert list(folder.results("nothing")) == []


@pytest.mark.parametrize("processes", ["0", "2"])
def test_a_test_file_that_cannot_be_imported_leaves_the_others(
    tmp_path: Path, processes: str
) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "pytest.ini").write_text("[pytest]\nmarkers = gpu: x\n nightly: x\n", "utf-8")
    (tests / "test_broken.py").write_text("import a_module_that_nobody_has\n", "utf-8")
    (tests / "test_whole.py").write_text(
        textwrap.dedent("""
            import os, pytest
            pytestmark = pytest.mark.gpu
            def test_right(): pass
            def test_wrong(): assert 1 + 1 == 3
            def test_left(): pytest.skip("no device")
            @pytest.fixture
            def resource(): raise OSError("gone")
            def test_without_its_fixture(resource): pass
        """),
        "utf-8",
    )
    if processes != "0":
        killed = "import os, pytest\n@pytest.mark.gpu\ndef test_killed(): os.abort()\n"
        (tests / "test_killed.py").write_text(killed, "utf-8")
    folder = tmp_path / "out"
    code = PREAMBLE.format(path=str(folder)) + textwrap.dedent(f"""
        from benchmarks.gpu import gpu_tests
        from benchmarks.gpu.job import Job
        gpu_tests.MOST_PROCESSES = {processes}
        gpu_tests.run(Job("tests", folder, 100.0, tests={str(tests)!r}))
    """)
    done = subprocesses.python(code)
    assert done.returncode == 1
    found = {r["test"].rpartition("/")[2]: r for r in Folder(folder).results("tests")}
    outcomes = {name: r["outcome"] for name, r in found.items()}
    assert outcomes.pop("test_broken.py") == "failed"
    assert "a_module_that_nobody_has" in found["test_broken.py"]["details"]
    if processes != "0":
        assert outcomes.pop("test_killed.py::test_killed") == "failed"
    assert outcomes == {
        "test_whole.py::test_right": "passed",
        "test_whole.py::test_wrong": "failed",
        "test_whole.py::test_left": "skipped",
        "test_whole.py::test_without_its_fixture": "failed",
    }
    assert "no device" in found["test_whole.py::test_left"]["details"]
    assert found["test_whole.py::test_wrong"]["details"] == "assert (1 + 1) == 3"
    assert "failed" in done.stderr.splitlines()[-1]


def test_the_page_is_written_after_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself, with parts of a test's own: pages of one, two and three parts."""
    folder = Folder(tmp_path)
    code = {
        "device": "folder.keep('device', facts={'GPU': 'Fake 9000'}, capability='9.0')",
        "smoke": "folder.keep('smoke', call='an_op_', backend='cuda', dtype='float32', right=False,"
        " failed='RuntimeError: no kernel image'); sys.exit(1)",
        "ops": "time.sleep(600)",
        "tests": "folder.keep('tests', test='a::b', outcome='passed', seconds=1, details='')",
    }
    every = [Part(name, f"part {name}", 0.03) for name in ("smoke", "ops", "tests")]
    monkeypatch.setattr(command, "planned", lambda *, rehearsed: every)
    monkeypatch.setattr(command, "_Command", lambda *_: _command(folder, code))
    pages: list[str] = []
    write = page.write

    def written(folder: Folder) -> None:
        write(folder)
        pages.append((folder.path / "report.md").read_text())

    monkeypatch.setattr(page, "write", written)
    assert command.main(["--out", str(tmp_path), "--minutes", "5"]) == 1
    assert ["| part tests" in text for text in pages] == [False, False, True]
    assert "Fake 9000" in pages[0]
    assert "WRONG: an_op_, cuda, float32: RuntimeError: no kernel image" in pages[0]
    rows = [line.split("|")[1:3] for line in pages[2].splitlines() if line.startswith("| part")]
    assert [[cell.strip() for cell in row] for row in rows[1:]] == [
        ["part smoke", "failed"], ["part ops", "time limit"], ["part tests", "done"],
    ]  # fmt: skip
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["results"]["tests"][0]["outcome"] == "passed"
    assert "smoke: failed" in capsys.readouterr().out


def test_what_was_not_done_is_not_called_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A part has its reason where a backend, a tool or a device is missing."""
    folder = Folder(tmp_path)
    code = {
        "device": "folder.keep('device', facts={'GPU': 'Fake 9000'}, capability='9.0')",
        "smoke": """
            if sys.argv[1] == "cuda":
                folder.keep("smoke", backend="cuda", missing="no compiled module")
            else:
                folder.keep("smoke", call="an_op_", backend="triton", dtype="float32", right=True)
        """,
        "build": """
            for module in ("_C_cuda", "_C"):
                folder.keep("build", module=module, missing=f"no {module} here")
        """,
        "tests": """
            for name in "ab":
                folder.keep("tests", test=name, outcome="skipped", details="Skipped: no device")
        """,
        "memcheck-cuda": "folder.keep('memcheck-cuda', backend='cuda', missing='no sanitizer')",
        "ops": """
            folder.keep("ops", test="a", outcome="skipped", details="Skipped: another")
            folder.keep("ops", test="b", outcome="passed", details="")
        """,
    }
    every = [
        Part(name, f"part {name}", 0.5, (("cuda",), ("triton",)) if name == "smoke" else ((),))
        for name in code
        if name != "device"
    ]
    monkeypatch.setattr(command, "planned", lambda *, rehearsed: every)
    monkeypatch.setattr(command, "_Command", lambda *_: _command(folder, code))
    assert command.main(["--out", str(tmp_path), "--minutes", "5"]) == 0
    lines = (tmp_path / "report.md").read_text().splitlines()
    rows = {}
    for line in lines:
        if line.startswith("| part "):
            name, outcome, _, details = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name.removeprefix("part ")] = (outcome, details)
    assert rows == {
        "part": ("outcome", "details"),
        "smoke": ("in part", "cuda: no compiled module; 1 right"),
        "build": ("skipped", "_C_cuda: no _C_cuda here; _C: no _C here"),
        "tests": ("skipped", "Skipped: no device; 2 skipped"),
        "memcheck-cuda": ("skipped", "cuda: no sanitizer"),
        "ops": ("done", "1 passed, 1 skipped"),
    }
    assert "smoke: in part after" in capsys.readouterr().out


def test_many_reasons_are_counted_and_a_failure_stays_one() -> None:
    records = [{"backend": f"b{n}", "missing": "why"} for n in (1, 2, 2, 3, 4, 5)]
    outcome = parts.by_results(parts.Outcome("done", 1.0), records)
    assert outcome == parts.Outcome("skipped", 1.0, "b1: why; b2: why; b3: why (and 2 more)")
    for status in ("failed", "time limit"):
        ended = parts.Outcome(status, 1.0, "said")
        assert parts.by_results(ended, records) == ended
    assert parts.by_results(parts.Outcome("done", 1.0), []).status == "done"


def test_without_a_gpu_the_status_is_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path)
    code = {"device": "folder.keep('device', missing='torch 2.11.0 finds no CUDA device')"}
    monkeypatch.setattr(command, "_Command", lambda *_: _command(folder, code))
    assert command.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "gpu_report: there is no GPU to measure: torch 2.11.0 finds no CUDA device\n"
    )
    code["device"] = "import torch_that_is_not_there"
    assert command.main(["--out", str(tmp_path)]) == 2
    assert "No module named 'torch_that_is_not_there'" in capsys.readouterr().err
    assert not (tmp_path / "report.md").exists()


def test_the_report_runs_every_file_whose_tests_are_marked_gpu() -> None:
    root = ROOT / "python_tests"
    marked = {
        file.relative_to(root).as_posix()
        for file in root.rglob("test_*.py")
        if "pytest.mark.gpu,\n" in file.read_text(encoding="utf-8")
    }
    assert "optim/test_optim_graphs.py" in marked
    assert {name for name in marked if not name.startswith(gpu_tests.TESTS)} == set()
    assert all(Path(path).exists() for path in gpu_tests.tests())
