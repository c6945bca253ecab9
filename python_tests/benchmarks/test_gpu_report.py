"""The command of the GPU report, with a fake device; its device layer, with a fake torch.cuda."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import gpu_device
import gpu_measure
import gpu_report
import gpu_right
import pytest
import torch
from gpu_contenders import Call, Workbench
from gpu_measure import FEWEST
from gpu_page import Outcome
from support import benchmark_fakes

from adadagrad_kernels.backends import BACKENDS, cpu

JUNIT = """<testsuites><testsuite>
<testcase classname="ops.test_moments" name="test_a"/>
<testcase classname="ops.test_moments" name="test_b">{inside}</testcase>
<testcase classname="ops.test_moments" name="test_c"><skipped message="why"/></testcase>
</testsuite></testsuites>"""


def _pytest(junit: str | None, status: int) -> gpu_right.Run:
    def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        assert command[command.index("-m", 3) + 1] == "gpu"
        assert seconds == 60
        [target] = [word.partition("=")[2] for word in command if word.startswith("--junitxml=")]
        if junit is not None:
            Path(target).write_text(junit, encoding="utf-8")
        return subprocess.CompletedProcess(command, status, "output\nthe last line\n", "")

    return run


@pytest.mark.parametrize(
    ("junit", "status", "passed", "details"),
    [
        (JUNIT.format(inside=""), 0, True, "2 passed, 0 failed, 1 were skipped"),
        (JUNIT.format(inside="<failure/>"), 1, False,
         "1 passed, 1 failed, 1 were skipped: ops.test_moments::test_b"),
        (JUNIT.format(inside="<error/>"), 1, False, "ops.test_moments::test_b"),
        ("<testsuites/>", 5, False, "0 passed, 0 failed, 0 were skipped; a report without a test"),
        (None, 4, False, "pytest ended with 4: the last line"),
    ],
)  # fmt: skip
def test_how_the_gpu_tests_went(junit: str | None, status: int, passed: bool, details: str) -> None:
    outcome = gpu_right.run_tests(60, _pytest(junit, status))
    assert outcome.passed is passed
    assert details in outcome.details


def test_tests_that_take_too_long_have_failed() -> None:
    def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        raise subprocess.TimeoutExpired(command, seconds)

    assert gpu_right.run_tests(60, run) == Outcome(gpu_right.TESTS, False, "not done after 60 s")


def test_compute_sanitizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(gpu_right, "CUDA_PROGRAMS", tmp_path / "cuda")
    absent = gpu_right.run_sanitizers(60)
    assert [o.passed for o in absent] == [None, None]
    assert all(o.details == "no compute-sanitizer on this machine" for o in absent)
    program = tmp_path / "cuda/compute-sanitizer"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    seen = []

    def run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1"]
        tool = command[command.index("--tool") + 1]
        seen.append((command[2], tool, command[-1], seconds))
        wrong = tool == "racecheck"
        text = f"========= {'ERROR' if wrong else 'RACECHECK'} SUMMARY: {int(wrong)} errors\n"
        return subprocess.CompletedProcess(command, 86 if wrong else 0, text, "")

    found = gpu_right.run_sanitizers(60, run)
    assert [tool for _, tool, _, _ in seen] == ["memcheck", "racecheck"]
    assert all(item[0] == str(program) and item[2:] == ("--once", 30) for item in seen)
    assert [o.passed for o in found] == [True, False]
    assert found[1].details == "ERROR SUMMARY: 1 errors"


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose GPU is a CPU with a fake timer; pages and data go to a folder."""
    if cpu.unavailable() is not None:
        pytest.skip(f"backend cpu: {cpu.unavailable()}")
    monkeypatch.setattr(gpu_device, "unavailable", lambda: None)
    monkeypatch.setattr(gpu_device, "CudaDevice", lambda: Ticking())
    monkeypatch.setattr(gpu_report, "OURS", ("cpu",))
    monkeypatch.setattr(gpu_report, "PAGE", tmp_path / "docs/internals/gpu_report.md")
    monkeypatch.setattr(gpu_report, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_report, "MIB", 1 << 14)
    monkeypatch.setattr(gpu_right, "run_tests", lambda s: Outcome("tests", True, "3 passed"))
    monkeypatch.setattr(gpu_right, "run_sanitizers", lambda s: [])
    return tmp_path


class Ticking(benchmark_fakes.FakeDevice):
    """Every call takes a microsecond."""

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        return 1e-6 + 0 * super().seconds(call, 1, flush=flush)


def test_the_command_writes_a_page_and_data(
    fake_gpu: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_report, "plan", _without_compilers(gpu_report.plan))
    monkeypatch.setattr(gpu_measure, "MOST", FEWEST)
    assert gpu_report.main(["--size", "1", "--minutes", "5"]) == 0
    text = (fake_gpu / "docs/internals/gpu_report.md").read_text()
    for op in ("batch_moments", "batch_adagrad_step_", "adagrad_step_", "adagrad_norm_step_"):
        assert f"\n## {op}\n" in text
    assert "Left out" not in text
    assert "| backend cpu" in text
    data = json.loads((fake_gpu / "gpu_fake_gpu_9000.json").read_text())
    assert len(data["cases"]) == 30
    assert "written:" in capsys.readouterr().out


def _without_compilers(plan: Callable[..., object]) -> Callable[..., object]:
    def planned(bench: Workbench, *, quick: bool) -> object:
        bench.compiled = False
        return plan(bench, quick=quick)

    return planned


def test_a_part_is_printed(fake_gpu: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--size", "1", "--only", "adagrad_norm_step_: one tensor"]
    assert gpu_report.main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.count("Least ") == 1
    assert "## adagrad_norm_step_" in printed
    assert not (fake_gpu / "docs").exists()
    assert gpu_report.main(["--only", "teleportation"]) == 2
    assert "no case contains 'teleportation'" in capsys.readouterr().err


def test_failures_are_the_exit_status(
    fake_gpu: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_right, "run_tests", lambda s: Outcome("tests", False, "1 failed"))
    monkeypatch.setattr(
        gpu_report,
        "plan",
        lambda *given, **named: [benchmark_fakes.case_of(benchmark_fakes.FakeDevice(), [], a=[1])],
    )
    assert gpu_report.main(["--quick"]) == 1
    assert "gpu_report: tests: 1 failed" in capsys.readouterr().err


def test_one_call_of_each_for_the_sanitizer(
    fake_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_report.main(["--once"]) == 0
    assert capsys.readouterr().out == "30 calls, each once\n"


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_device, "unavailable", lambda: "torch was built without CUDA")
    assert gpu_report.main([]) == 2
    assert capsys.readouterr().err == (
        "gpu_report: there is no GPU to measure: torch was built without CUDA\n"
    )


def test_why_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "was built without CUDA" in str(gpu_device.unavailable())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "finds no CUDA device" in str(gpu_device.unavailable())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_device.unavailable() is None


@pytest.fixture
def cuda_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the device layer asks of ``torch.cuda``, in order; events are 3 ms apart."""
    calls: list[str] = []

    class Event:
        made = 0

        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing
            self.name = ("start", "end")[Event.made]
            Event.made += 1

        def record(self) -> None:
            calls.append(self.name)

        def elapsed_time(self, end: Event) -> float:
            assert (self.name, end.name) == ("start", "end")
            return 3.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: calls.append(f"device {index}"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("free"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7 << 30, 80 << 30))
    monkeypatch.setattr(torch, "zeros", lambda count, device: f"{4 * count} bytes on {device}")
    monkeypatch.setattr(torch, "sum", lambda other: calls.append(f"read {other}"))
    return calls


def test_what_is_timed_lies_between_two_events(cuda_calls: list[str]) -> None:
    device = gpu_device.CudaDevice(1)
    assert device.seconds(lambda: cuda_calls.append("call"), 1, flush=True) == 3e-3
    read = f"read {gpu_device.FLUSH_BYTES} bytes on cuda:1"
    assert cuda_calls == ["device 1", "wait", read, "start", "call", "end", "wait"]
    cuda_calls.clear()
    assert device.seconds(lambda: cuda_calls.append("call"), 3, flush=False) == 1e-3
    assert cuda_calls == ["wait", "start", "call", "call", "call", "end", "wait"]
    device.wait()
    device.free()
    assert cuda_calls[-2:] == ["wait", "free"]
    assert device.free_bytes() == 7 << 30


def test_facts_of_the_device(
    cuda_calls: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    properties = SimpleNamespace(
        name="Fake 9000", major=9, minor=0, multi_processor_count=132,
        total_memory=80 << 30, L2_cache_size=50 << 20,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setenv("PATH", str(tmp_path))
    device = gpu_device.CudaDevice()
    facts = device.facts()
    assert (facts["GPU"], facts["memory"], facts["L2 cache"]) == ("Fake 9000", "80 GiB", "50 MiB")
    assert facts["driver"] == "unknown: no nvidia-smi"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '580.1, 1980 MHz, 1980 MHz, 3201 MHz, 700 W, 31'\n")
    program.chmod(0o755)
    facts = device.facts()
    assert (facts["driver"], facts["clock"], facts["power limit"]) == ("580.1", "1980 MHz", "700 W")
    program.write_text("#!/bin/sh\necho 'driver and library do not agree'\nexit 18\n")
    assert device.facts()["clock"] == "unknown: nvidia-smi fails"


def test_a_gpu_without_backends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_device, "unavailable", lambda: None)
    for name in gpu_report.OURS:
        monkeypatch.setattr(BACKENDS[name].module, "unavailable", lambda: "it was not built")
    assert gpu_report.main([]) == 2
    assert "no backend can run on this GPU: cuda: it was not built" in capsys.readouterr().err


def test_g_fits_into_free_memory() -> None:
    options = gpu_report._parser().parse_args([])
    assert gpu_report._size(options, 140 << 30) == 1 << 30
    assert gpu_report._size(options, 6 << 30) == 512 << 20
    assert gpu_report._size(options, 0) == 1 << 20
    assert gpu_report._file_name("NVIDIA H200 (SXM)") == "nvidia_h200_sxm"


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        gpu_report.main(["--help"])
    printed = capsys.readouterr().out
    for taught in ("Exit status", "examples:", "--quick", "copy of the same bytes"):
        assert taught in printed
