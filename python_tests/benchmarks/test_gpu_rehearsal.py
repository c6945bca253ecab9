"""What the parts of the GPU report do, on a CPU in the GPU's place, and the page of that."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from adadagrad_kernels import ops as all_ops
from adadagrad_kernels.backends import cpu
from benchmarks.gpu import once, ops, page, parts, sanitizers, smoke, training, training_models
from benchmarks.gpu.command import planned
from benchmarks.gpu.folder import Folder
from benchmarks.gpu.job import Job

pytestmark = pytest.mark.skipif(
    cpu.unavailable() is not None, reason=f"backend cpu: {cpu.unavailable()}"
)


@pytest.fixture(autouse=True)
def _alone(one_thread: None) -> None:
    """The fake device sets the number of threads."""


def _job(folder: Path, part: str, **given: object) -> Job:
    return Job(part, Folder(folder), 300.0, rehearsed=True, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", smoke.DTYPES)
def test_every_op_is_compared_with_float64(tmp_path: Path, dtype: str) -> None:
    job = _job(tmp_path, "smoke", way="cpu", dtype=dtype)
    smoke.run(job)
    found = list(job.folder.results("smoke"))
    names = {record["call"].partition(" ")[0] for record in found}
    assert names == {n for n in all_ops.__all__ if hasattr(torch.ops.adadagrad_kernels, n)}
    assert all(record["right"] for record in found)
    assert all(0 < record["off"] <= record["allowed"] for record in found)


def test_an_op_that_is_wrong_and_one_that_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = cpu.batch_moments

    def wrong(*given: object) -> object:
        moments = right(*given)
        moments.sq_norms[3] *= 1.001
        return moments

    def raises(*given: object) -> None:
        raise RuntimeError("no kernel image is available\nand more")

    monkeypatch.setattr(cpu, "batch_moments", wrong)
    monkeypatch.setattr(cpu, "norm_layer_moments", raises)
    job = _job(tmp_path, "smoke", way="cpu", dtype="float32")
    with pytest.raises(RuntimeError, match="ops are wrong on cpu in float32"):
        smoke.run(job)
    found = {record["call"]: record for record in job.folder.results("smoke")}
    assert not found["batch_moments"]["right"]
    assert 1e-4 < found["batch_moments"]["off"] < 1e-2
    assert found["norm_layer_moments"]["failed"] == "RuntimeError: no kernel image is available"
    assert found["adagrad_step_"]["right"]
    assert "WRONG: batch_moments, cpu, float32: off by" in page._smoke(list(found.values()))


def test_a_backend_that_is_not_there_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "unavailable", lambda: "the compiled module is missing")
    done = parts.Outcome("done", 1.0)
    outcomes = []
    for part, way in (
        ("smoke", "cpu"),
        ("smoke", "reference"),
        ("training-cpu", "cpu"),
        ("ops", ""),
    ):
        job = _job(tmp_path, part, way=way, dtype="float32")
        {"smoke": smoke, "training-cpu": training, "ops": ops}[part].run(job)
        outcomes.append(parts.by_results(done, job.folder.results(part)))
    assert [outcome.status for outcome in outcomes] == ["skipped", "in part", "skipped", "skipped"]
    assert {outcome.details for outcome in outcomes} == {"cpu: the compiled module is missing"}


def test_training_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="Transformers is not installed")
    tied = next(m for m in training_models.models(small=True) if "tied" in m.name)

    def no_library() -> torch.nn.Module:
        raise ModuleNotFoundError("No module named 'transformers'")

    missing = training_models.Model("one that needs a library", 3, no_library, tied.batch)
    monkeypatch.setattr(training, "models", lambda *, small: [missing, tied])
    monkeypatch.setattr(training, "MOST", training.FEWEST)
    job = _job(tmp_path, "training-cpu", way="cpu")
    with pytest.raises(RuntimeError, match="2 steps raised or are wrong"):
        training.run(job)
    found = list(job.folder.results("training-cpu"))
    for record in found:
        if record["model"] == missing.name:
            assert record["failed"] == "ModuleNotFoundError: No module named 'transformers'"
    for autocast in (False, True):
        own = [r for r in found if r["model"] == tied.name and r["autocast"] == autocast]
        right = {r["step"]: r for r in own if "right" in r}
        assert set(right) == set(training.QUANTITIES)
        assert all(r["right"] for r in right.values())
        costs = {r["step"]: r for r in own if "peak_bytes" in r}
        times = {r["step"]: r for r in own if "seconds" in r}
        assert set(costs) == set(times) == {training.PLAIN, *training.QUANTITIES}
        assert all(r["peak_bytes"] > 0 and r["launches"] > 0 for r in costs.values())
        assert costs["inner products"]["launches"] > costs["plain"]["launches"]
        assert all(len(r["seconds"]) >= training.FEWEST for r in times.values())
    text = page._training(found)
    assert f"{tied.name}, bf16 autocast." in text
    assert re.search(r"\| plain +\| failed \| ModuleNotFoundError", text)


def test_numbers_that_are_wrong_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = training_models.resnet18(3, width=4, blocks=1)
    monkeypatch.setattr(training, "models", lambda *, small: [model])
    monkeypatch.setattr(training, "MOST", training.FEWEST)
    alone = training._norms_alone
    monkeypatch.setattr(training, "_norms_alone", lambda s: [1.05 * norm for norm in alone(s)])
    job = _job(tmp_path, "training-cpu", way="cpu")
    with pytest.raises(RuntimeError, match="3 steps raised or are wrong"):
        training.run(job)
    verdicts = [r for r in job.folder.results("training-cpu") if "right" in r]
    assert [r["right"] for r in verdicts] == [False] * 3 + [True] * 3  # bfloat16 hides so much
    assert all(0.02 < r["off"] < 0.03 for r in verdicts[:3])
    assert page._training(verdicts).count("WRONG") == 3


def test_ops_and_what_no_time_was_left_for(tmp_path: Path) -> None:
    job = _job(tmp_path, "ops", only="adagrad_norm_step_: one tensor", mib=1)
    ops.run(job)
    size, *cases = job.folder.results("ops")
    assert size["size_of_g"] == 1 << 20
    assert {case["op"] for case in cases} == {"adagrad_norm_step_"}
    assert all(case["contenders"]["cpu"]["spread"][0] > 0 for case in cases)
    late = Job("ops", Folder(tmp_path / "late"), 0.0, rehearsed=True, only="norm", mib=1)
    ops.run(late)
    _, *left = late.folder.results("ops")
    assert left
    assert all("left_out" in record for record in left)
    with pytest.raises(RuntimeError, match="no case contains 'teleportation'"):
        ops.run(_job(tmp_path, "ops", only="teleportation"))


def test_g_fits_into_free_memory() -> None:
    assert ops._size(None, 140 << 30) == 1 << 30
    assert ops._size(None, 6 << 30) == 512 << 20
    assert ops._size(64, 6 << 30) == 64 << 20
    assert ops._size(None, 0) == 1 << 20


def test_every_op_once_for_the_sanitizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once.run(_job(tmp_path, "once", way="cpu"))
    calls = int(capsys.readouterr().out.split()[0])
    assert calls >= 38
    with pytest.raises(RuntimeError, match="the backend cuda cannot run here"):
        once.run(_job(tmp_path, "once", way="cuda"))


def test_compute_sanitizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sanitizers, "CUDA_PROGRAMS", tmp_path / "cuda")
    job = _job(tmp_path, "memcheck-cpu", way="cpu")
    sanitizers.run(job)
    [absent] = job.folder.results("memcheck-cpu")
    assert absent["missing"] == "no compute-sanitizer on this machine"
    program = tmp_path / "cuda/compute-sanitizer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)

    def run(command: Sequence[str], environment: dict[str, str], log: Path) -> int:
        assert environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        assert command[0] == str(program)
        assert command[-4:] == ["--out", str(tmp_path), "--way", "cuda"]
        wrong = command[command.index("--tool") + 1] == "racecheck"
        log.write_text(f"========= {'ERROR' if wrong else 'CHECK'} SUMMARY: {int(wrong)} errors\n")
        return sanitizers.FOUND if wrong else 0

    sanitizers.run(_job(tmp_path, "memcheck-cuda", way="cuda"), run)
    with pytest.raises(RuntimeError, match="SUMMARY: 1 errors"):
        sanitizers.run(_job(tmp_path, "racecheck-cuda", way="cuda"), run)
    tools = ("memcheck", "racecheck")
    found = [next(Folder(tmp_path).results(f"{tool}-cuda")) for tool in tools]
    assert [record["right"] for record in found] == [True, False]
    assert found[1]["details"] == "ERROR SUMMARY: 1 errors"


def test_the_order_of_the_parts() -> None:
    names = [part.name for part in planned(rehearsed=False)]
    assert names == [
        "build", "smoke", "tests", "training-cuda", "training-triton", "training-reference",
        "ops", "compile", "memcheck-cuda", "memcheck-triton", "racecheck-cuda",
    ]  # fmt: skip
    [smoke_part] = [part for part in planned(rehearsed=False) if part.name == "smoke"]
    pairs = {(options[1], options[3]) for options in smoke_part.processes}
    assert pairs == {(way, dtype) for way in ("cuda", "triton", "reference")
                     for dtype in smoke.DTYPES}  # fmt: skip


def test_the_page_of_a_report(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.keep("report", date="2000-01-01", rehearsed=True, facts={"GPU": "none"}, minutes=1)
    folder.keep("parts", name="ops", what="every op", status="done", seconds=3.0, details="")
    folder.keep("ops", size_of_g=1)
    contenders = {
        "cuda": {"seconds": [2e-5] * 5, "spread": [2e-5] * 3, "over_copy": [2.0] * 3},
        "copy of the same bytes": {"seconds": [1e-5] * 5, "spread": [1e-5] * 3},
        "torch, plain": {"seconds": [8e-5] * 5, "spread": [8e-5] * 3, "over_copy": [8.0] * 3},
    }
    folder.keep("ops", op="batch_moments", case="64 rows", least_bytes=4_000_000, flush=True,
                contenders=contenders, failed={"torch, other": "OutOfMemoryError: x"})  # fmt: skip
    folder.keep("ops", left_out="batch_moments: 4096 rows")
    page.write(folder)
    text = (tmp_path / "report.md").read_text()
    rows = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[cells[0]] = cells[1:]
    assert rows["cuda"] == ["20.0", "[20.0, 20.0]", "200", "2.00", "[2.00, 2.00]"]
    assert rows["copy of the same bytes"] == ["10.0", "[10.0, 10.0]", "400", "", ""]
    assert rows["torch, other"][:2] == ["failed", "OutOfMemoryError: x"]
    assert rows["every op"] == ["done", "3", "1 measured, 1 left out"]
    assert "Least 4,000,000 bytes; 5 rounds; L2 filled with other data before each call." in text
    assert "* batch_moments: 4096 rows" in text
    assert "This was a rehearsal on a CPU" in text
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["results"]["ops"][1]["contenders"]["cuda"]["seconds"] == [2e-5] * 5
    widths: list[int] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            widths.append(len(line))
        else:
            assert len(set(widths)) <= 1, line
            widths = []
