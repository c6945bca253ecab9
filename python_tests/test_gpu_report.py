"""The report of a GPU: its plan, its rounds, its page and its command, with a fake device."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent.parent / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip(
        "no benchmarks here: these tests run outside the source tree", allow_module_level=True
    )
sys.path.insert(0, str(FOLDER))

import gpu_contenders  # noqa: E402
import gpu_device  # noqa: E402
import gpu_measure  # noqa: E402
import gpu_report  # noqa: E402
import gpu_right  # noqa: E402
from gpu_contenders import COPY, Call, Workbench  # noqa: E402
from gpu_measure import FEWEST, MOST, WARM_UP, Result, Results, measure, measure_all  # noqa: E402
from gpu_page import Outcome, Report, as_data, page  # noqa: E402
from gpu_plan import Case, plan  # noqa: E402

from adadagrad_kernels import ops  # noqa: E402
from adadagrad_kernels.backends import BACKENDS, cpu  # noqa: E402

NEVER = float("inf")


@dataclass
class FakeDevice:
    """Calls take what they add to ``clock``; the host's clock runs ten times as fast."""

    name: str = "cpu"
    clock: float = 0.0
    flushes: list[bool] = field(default_factory=list)
    freed: int = 0

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        self.flushes.append(flush)
        start = self.clock
        for _ in range(repeats):
            call()
        return (self.clock - start) / repeats

    def wait(self) -> None:
        self.clock += 0.0

    def free(self) -> None:
        self.freed += 1

    def host_clock(self) -> float:
        return 10 * self.clock

    def free_bytes(self) -> int:
        return 64 << 20

    def facts(self) -> dict[str, str]:
        return {"GPU": "Fake GPU 9000", "clock": "1 MHz", "driver": "1.2.3"}


def _takes(device: FakeDevice, order: list[str], name: str, times: Sequence[float]) -> Call:
    """A call that takes ``times`` in turn, over and over."""
    turns = itertools.cycle(times)

    def call() -> None:
        order.append(name)
        device.clock += next(turns)

    return call


def _case(device: FakeDevice, order: list[str], **times: Sequence[float]) -> Case:
    calls = {name: _takes(device, order, name, values) for name, values in times.items()}
    calls |= {COPY: calls.pop("copy")} if "copy" in calls else {}
    return Case("op_", "a case", 1000, lambda: calls)


def _measured(case: Case, device: FakeDevice, until: float = NEVER) -> Result:
    result = measure(case, device, until=until, last=NEVER, now=device.host_clock)
    assert result is not None
    return result


def test_every_contender_runs_in_every_round_and_the_first_moves_on() -> None:
    device, order = FakeDevice(), []
    result = _measured(_case(device, order, a=[1.0], b=[2.0], c=[3.0]), device)
    rounds = order[3 * WARM_UP :]
    assert ["".join(rounds[i : i + 3]) for i in range(0, 9, 3)] == ["abc", "bca", "cab"]
    assert result.seconds == {"a": [1.0] * MOST, "b": [2.0] * MOST, "c": [3.0] * MOST}
    assert device.flushes == [True] * 3 * MOST


def test_ratios_are_formed_within_rounds() -> None:
    """A device that gets four times slower every other round changes no ratio."""
    device = FakeDevice()
    slow = [1.0, 4.0]
    case = _case(device, [], ours=[1.5 * s for s in slow], copy=slow)
    result = _measured(case, device)
    assert result.over_copy("ours") == (1.5, 1.5, 1.5)
    assert result.spread("ours").median == pytest.approx(1.5 * 2.5)
    assert result.over_copy(COPY) == (1.0, 1.0, 1.0)
    without = _measured(_case(device, [], ours=[1.0]), device)
    assert without.over_copy("ours") is None


def test_calls_that_follow_one_another_are_repeated() -> None:
    device, order = FakeDevice(), []
    case = _case(device, order, short=[1e-5], long=[1.0])
    case = Case(case.op, case.title, case.least_bytes, case.contenders, flush=False)
    result = _measured(case, device)
    assert order.count("short") == WARM_UP + 1 + MOST * 200
    assert order.count("long") == WARM_UP + 1 + MOST
    assert result.seconds["short"] == pytest.approx([1e-5] * MOST)
    assert not any(device.flushes)


def test_rounds_end_with_their_share_of_the_time() -> None:
    device = FakeDevice()
    case = _case(device, [], a=[0.01])
    # Warm-up takes 0.3 s of the host's clock, every round 0.1 s.
    assert len(_measured(case, device, until=0.3 + 1.0 - 1e-6).seconds["a"]) == 10
    few = _measured(case, device, until=0.0).seconds["a"]
    assert len(few) == FEWEST, "a case that was begun has enough rounds for quartiles"


def test_what_there_is_no_time_for_is_named() -> None:
    device = FakeDevice()
    cases = [Case("op_", f"case {n}", 1, _case(device, [], a=[0.05]).contenders) for n in range(4)]
    # All of a case in the fewest rounds: (3 + 5) x 0.5 s; two cases and a part of the third.
    results = measure_all(cases, device, deadline=9.0, now=device.host_clock)
    assert [result.case.title for result in results.measured] == ["case 0", "case 1"]
    assert results.left_out == ["op_: case 2", "op_: case 3"]
    assert device.freed == 2


def test_time_that_is_left_goes_to_later_cases() -> None:
    device = FakeDevice()
    cases = [Case("op_", str(n), 1, _case(device, [], a=[0.01]).contenders) for n in range(3)]
    told: list[str] = []
    results = measure_all(cases, device, deadline=1000.0, now=device.host_clock, tell=told.append)
    assert [len(result.seconds["a"]) for result in results.measured] == [MOST] * 3
    assert told == ["op_: 0", "op_: 1", "op_: 2"]


def test_a_contender_that_raises_is_reported_and_the_others_go_on() -> None:
    device = FakeDevice()

    def broken() -> None:
        raise RuntimeError("no kernel image\nand more lines")

    calls = _case(device, [], a=[1.0], copy=[1.0]).contenders() | {"triton": broken}
    result = _measured(Case("op_", "t", 1, lambda: calls), device)
    assert result.failed == {"triton": "RuntimeError: no kernel image"}
    assert set(result.seconds) == {"a", COPY}

    def no_memory() -> dict[str, Call]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    result = _measured(Case("op_", "t", 1, no_memory), device)
    assert result.failed == {"setting up": "OutOfMemoryError: CUDA out of memory"}
    assert result.seconds == {}


def test_the_plan_counts_the_least_bytes() -> None:
    bench = Workbench("cpu", 1 << 20, ("cuda",), compiled=False)
    least = {(case.op, case.title): case.least_bytes for case in plan(bench)}
    rows, features = 64, 4096
    everything = "mean, norms, variance, inner products"
    assert least["batch_moments", f"64 rows of 4,096, float32; {everything}"] == (
        4 * rows * features + 8 * features + 16 * rows
    )
    assert least["batch_moments", "64 rows of 4,096, float32; mean, norms"] == (
        4 * rows * features + 4 * features + 8 * rows
    )
    assert least["batch_adagrad_step_", "64 rows of 8,192, bfloat16; all outputs"] == (
        2 * rows * 8192 + (4 * 2 + 8) * 8192 + 16 * rows
    )
    assert least["adagrad_step_", "one tensor of 65,536, float32"] == 20 * 65536
    assert least["adagrad_step_", "300 tensors of 1,000, float32"] == 20 * 300_000
    assert least["adagrad_norm_step_", "one tensor of 65,536, bfloat16"] == 8 * 65536
    odd = [title for op, title in least if "odd addresses" in title]
    assert len(odd) == 2
    assert "64 rows of 4,033, float32" in odd[0]


def test_the_plan_has_every_op_output_and_type() -> None:
    bench = Workbench("cpu", 1 << 20, ("cuda", "triton"), compiled=True)
    cases = list(plan(bench))
    assert len({(case.op, case.title) for case in cases}) == len(cases)
    ops = {"batch_moments", "batch_adagrad_step_", "adagrad_step_", "adagrad_norm_step_"}
    assert {case.op for case in cases} == {case.op for case in plan(bench, quick=True)} == ops
    outputs = {case.title.partition("; ")[2] for case in cases if case.op == "batch_moments"}
    assert outputs == {
        "mean, norms", "mean, norms, variance", "mean, norms, inner products",
        "mean, norms, variance, inner products",
    }  # fmt: skip
    for dtype in ("float32", "bfloat16", "float16"):
        assert {case.op for case in cases if dtype in case.title} >= ops - {"batch_adagrad_step_"}
    together = [case for case in cases if "300 tensors" in case.title]
    assert len(together) == 2
    assert not any(case.flush for case in together)
    assert all(case.flush for case in cases if case not in together)


@pytest.mark.parametrize("quick", [True, False])
def test_every_contender_runs(quick: bool) -> None:
    """On a CPU, with backends that it has, on little data."""
    ours = tuple(name for name in ("reference", "cpu") if BACKENDS[name].unavailable() is None)
    bench = Workbench("cpu", 1 << 15, ours, compiled=False)
    names: dict[str, set[str]] = {}
    for case in plan(bench, quick=quick):
        contenders = case.contenders()
        assert {*ours, COPY} <= contenders.keys()
        for name, call in contenders.items():
            call()
            names.setdefault(case.op, set()).add(name)
    assert {"torch, plain", "torch, by_matrix_products", "torch, by_elements"} <= names[
        "batch_moments"
    ]
    assert {"torch, Adagrad(fused=True)", "torch, Adagrad(foreach=True)",
            "our Adagrad, reference"} <= names["adagrad_step_"]  # fmt: skip
    assert "torch, foreach" in names["adagrad_norm_step_"]
    assert gpu_right.run_once("cpu", ours) > 40 * len(ours) // 2


def test_compiled_contenders_take_part_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda call, *, dynamic: call)
    bench = Workbench("cpu", 1 << 15, ("reference",), compiled=True)
    first = next(iter(plan(bench))).contenders()
    assert {"torch.compile, plain", "torch.compile, by_elements"} <= first.keys()
    later = [c for c in plan(bench) if c.title.startswith("one tensor")]
    assert len(later) == 6
    for case in later:
        case.contenders()["torch.compile"]()


def test_the_expressions_of_torch_do_what_our_ops_do() -> None:
    bench = Workbench("cpu", 1 << 15, ("reference",), compiled=False)
    params, grads = [bench.numbers(n) for n in (7, 64)], [bench.numbers(n) for n in (7, 64)]
    ours, theirs = ([p.clone() for p in params] for _ in range(2))
    sums, other_sums = ([torch.ones_like(p) for p in params] for _ in range(2))
    ops.adagrad_step_(ours, grads, sums, lr=gpu_contenders.LR)
    gpu_contenders._eager_adagrad(theirs, other_sums, grads)
    torch.testing.assert_close([*ours, *sums], [*theirs, *other_sums])
    accumulator, other = (torch.ones((), dtype=torch.float64) for _ in range(2))
    ops.adagrad_norm_step_(ours, grads, accumulator, lr=gpu_contenders.LR)
    gpu_contenders._eager_adagrad_norm(theirs, grads, other)
    torch.testing.assert_close([*ours, accumulator], [*theirs, other])


def test_a_copy_moves_the_bytes_it_should() -> None:
    copy = Workbench("cpu", 1, (), compiled=False).copies(4000)
    assert isinstance(copy, partial)
    assert copy.args[0].nbytes == 2000, "read once, written once"
    bench = Workbench("cpu", 1 << 16, (), compiled=False)
    grads = bench.grads(8, torch.bfloat16, aligned=False)
    assert grads.shape[1] % 2 == 1
    assert grads.is_contiguous()
    assert bench.grads(8, torch.bfloat16).data_ptr() == grads.data_ptr(), "one memory for all"


def _report(*, failed: bool = False) -> Report:
    device = FakeDevice()
    first = Case("batch_moments", "64 rows", 4_000_000, lambda: {})
    second = Case("adagrad_step_", "300 tensors", 6_000_000, lambda: {}, flush=False)
    times = {"cuda": [2e-5] * 5, COPY: [1e-5] * 5, "torch, plain": [8e-5] * 5}
    results = Results(
        [
            Result(first, times, {"torch, by_elements": "OutOfMemoryError: too large"}),
            Result(second, {"cuda": [1e-3, 2e-3, 3e-3, 4e-3, 5e-3]},
                   {"triton": "RuntimeError: it broke"} if failed else {}),
        ],
        ["batch_moments: 4096 rows"],
    )  # fmt: skip
    outcomes = [
        Outcome("tests marked gpu", not failed, "412 passed"),
        Outcome("compute-sanitizer memcheck", None, "no compute-sanitizer on this machine"),
    ]
    return Report(device.facts(), outcomes, results)


def test_the_page_says_what_was_found() -> None:
    text = page(_report())
    rows = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.setdefault(cells[0], cells[1:])
    assert rows["GPU"] == ["Fake GPU 9000"]
    assert rows["tests marked gpu"] == ["passed", "412 passed"]
    assert rows["compute-sanitizer memcheck"][0] == "did not run"
    assert rows["cuda"] == ["20.0", "[20.0, 20.0]", "200", "2.00", "[2.00, 2.00]"]
    assert rows[COPY] == ["10.0", "[10.0, 10.0]", "400", "", ""]
    assert rows["torch, plain"][3] == "8.00"
    assert rows["torch, by_elements"][:2] == ["failed", "OutOfMemoryError: too large"]
    assert "| cuda      | 3,000.0 | [2,000.0, 4,000.0] |" in text
    assert "Least 4,000,000 bytes; 5 rounds; L2 filled with other data before each call." in text
    assert "calls follow one another" in text
    assert "* batch_moments: 4096 rows" in text
    assert text.index(f"| {COPY}") < text.index("| cuda ") < text.index("| torch, plain")


def test_tables_of_the_page_line_up() -> None:
    widths: list[int] = []
    tables = 0
    for line in [*page(_report(failed=True)).splitlines(), ""]:
        if line.startswith("|"):
            widths.append(len(line))
            continue
        tables += bool(widths)
        assert len(set(widths)) <= 1, line
        widths = []
    assert tables == 4


def test_failures_of_ours_count_and_torchs_do_not() -> None:
    assert _report().failed == []
    assert _report(failed=True).failed == [
        "tests marked gpu: 412 passed",
        "adagrad_step_, 300 tensors: triton: RuntimeError: it broke",
    ]
    data = json.loads(json.dumps(as_data(_report())))
    assert data["cases"][0]["seconds"]["cuda"] == [2e-5] * 5
    assert data["left_out"] == ["batch_moments: 4096 rows"]


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
    monkeypatch.setattr(gpu_report, "PAGE", tmp_path / "docs/gpu_report.md")
    monkeypatch.setattr(gpu_report, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_report, "MIB", 1 << 14)
    monkeypatch.setattr(gpu_right, "run_tests", lambda s: Outcome("tests", True, "3 passed"))
    monkeypatch.setattr(gpu_right, "run_sanitizers", lambda s: [])
    return tmp_path


class Ticking(FakeDevice):
    """Every call takes a microsecond."""

    def seconds(self, call: Call, repeats: int, *, flush: bool) -> float:
        return 1e-6 + 0 * super().seconds(call, 1, flush=flush)


def test_the_command_writes_a_page_and_data(
    fake_gpu: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_report, "plan", _without_compilers(gpu_report.plan))
    monkeypatch.setattr(gpu_measure, "MOST", FEWEST)
    assert gpu_report.main(["--size", "1", "--minutes", "5"]) == 0
    text = (fake_gpu / "docs/gpu_report.md").read_text()
    for op in ("batch_moments", "batch_adagrad_step_", "adagrad_step_", "adagrad_norm_step_"):
        assert f"\n## {op}\n" in text
    assert "Left out" not in text
    assert "| backend cpu" in text
    data = json.loads((fake_gpu / "gpu_fake_gpu_9000.json").read_text())
    assert len(data["cases"]) == 26
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
        gpu_report, "plan", lambda *given, **named: [_case(FakeDevice(), [], a=[1])]
    )
    assert gpu_report.main(["--quick"]) == 1
    assert "gpu_report: tests: 1 failed" in capsys.readouterr().err


def test_one_call_of_each_for_the_sanitizer(
    fake_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu_report.main(["--once"]) == 0
    assert capsys.readouterr().out == "26 calls, each once\n"


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


def test_a_gpu_without_backends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_device, "unavailable", lambda: None)
    for name in gpu_report.OURS:
        monkeypatch.setattr(BACKENDS[name], "unavailable", lambda: "it was not built")
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
