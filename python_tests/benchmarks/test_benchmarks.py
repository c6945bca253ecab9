"""The measuring itself: ratios, goals and the report; no test here depends on the time it takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip(
        "no benchmarks here: these tests run outside the source tree", allow_module_level=True
    )
sys.path.insert(0, str(FOLDER))

import goals  # noqa: E402
import interleaved  # noqa: E402
import limits  # noqa: E402
import peers  # noqa: E402
import processor  # noqa: E402
from support.oracles import Moments, assert_within, shared_case  # noqa: E402

from adadagrad_kernels.backends import cpu  # noqa: E402

needs_kernels = pytest.mark.skipif(cpu.unavailable() is not None, reason=str(cpu.unavailable()))


def test_ratios_are_formed_within_rounds() -> None:
    """A machine that gets ten times slower half-way changes no ratio."""
    over = [1.0, 1.0, 1.0, 10.0, 10.0]
    found = interleaved.ratio([2 * seconds for seconds in over], over)
    assert found == interleaved.Spread(2.0, 2.0, 2.0)
    assert interleaved.spread([1.0, 2.0, 3.0, 4.0, 100.0]) == (3.0, 2.0, 4.0)


def test_every_contender_runs_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def takes(name: str, seconds: float):
        def call() -> None:
            order.append(name)
            clock[0] += seconds

        return call

    monkeypatch.setattr(interleaved.time, "perf_counter", lambda: clock[0])
    calls = {"a": takes("a", 1.0), "b": takes("b", 3.0), "short": takes("short", 1e-3)}
    times = interleaved.rounds_of_seconds(calls, rounds=4)
    assert times["a"] == pytest.approx([1.0] * 4)
    assert times["b"] == pytest.approx([3.0] * 4)
    assert times["short"] == pytest.approx([1e-3] * 4)
    assert order.count("short") == 2 + 4 * 5, "short calls are repeated for five milliseconds"
    assert order.count("b") == 1 + 4, "long ones have but one call before"
    last = [name for name in order[-7:] if name != "short"]
    assert last == ["a", "b"], "the order moves on by one each round"


def test_peak_memory_counts_what_torch_does_not_know() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    peak = interleaved.peak_bytes(lambda: bytearray(b"x") * (64 << 20))
    assert 60 << 20 < peak < 80 << 20
    assert 0 < interleaved.peak_bytes(lambda: None) < 4 << 20


def test_goals_know_their_direction() -> None:
    at_most = goals.Goal("", "a", "b", 1.2)
    at_least = goals.Goal("", "a", "b", 3.0, at_least=True)
    assert [at_most.met(ratio) for ratio in (1.1, 1.2, 1.3)] == [True, True, False]
    assert [at_least.met(ratio) for ratio in (2.9, 3.0, 3.1)] == [False, True, True]


@pytest.mark.parametrize("name", peers.EAGER)
@pytest.mark.parametrize("shape", [(2, 7), (9, 4099), (513, 1023)])
def test_the_expressions_we_compare_with_compute_the_same(
    name: str, shape: tuple[int, int]
) -> None:
    grads, expected = shared_case(*shape, torch.float32)
    for field, actual in zip(Moments._fields, peers.EAGER[name](grads), strict=True):
        value, tolerance = getattr(expected, field)
        assert_within(field, actual, value, 10 * tolerance)


@needs_kernels
def test_the_report_has_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, threads = tmp_path / "limits.json", torch.get_num_threads()
    asked = ["--size", "1", "--rounds", "2", "--threads", "1", "--quick", "--only", "64 rows"]
    assert limits.main([*asked, "--json", str(target)]) == 0
    report = json.loads(target.read_text())
    assert {"machine", "cpu", "isa", "threads", "torch", "rows", "settings"} <= report.keys()
    assert len(report["rows"]) == 7
    assert report["cpu"] == processor.name()
    printed = capsys.readouterr().out
    for row in report["rows"]:
        assert row["experiment"] in printed
        assert row["cpu"] == report["cpu"]
        assert row["what"] in printed
        assert row["quartiles"][0] <= row["measured"] <= row["quartiles"][1]
        met = row["measured"] >= row["goal"] if row["at_least"] else row["measured"] <= row["goal"]
        assert row["met"] == met
    assert torch.get_num_threads() == threads, "measuring leaves the threads as they were"


@needs_kernels
def test_an_experiment_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert limits.main(["--size", "1", "--only", "teleportation"]) == 2
    assert "no experiment's title contains 'teleportation'" in capsys.readouterr().err


def test_without_kernels_there_is_nothing_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "unavailable", lambda: "the module is missing")
    assert limits.main([]) == 2
    assert "there are no kernels to measure: the module is missing" in capsys.readouterr().err


@needs_kernels
@pytest.mark.slow
def test_timed_benchmarks_run_with_what_torch_compiles(tmp_path: Path) -> None:
    """As `make bench` runs them: torch's compiler warns of torch's own parts, which is no error."""
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-o", "python_files=bench_*.py", "-q"]
    options = ["--benchmark-only", "--bench-size", "small", "--benchmark-max-time=0.01"]
    # To pytest-benchmark a worker of pytest-xdist would be a place where nothing can be timed.
    alone = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    child = subprocess.run(
        [*command, *options, "-p", "no:cacheprovider", "-k", "test_compiled and plain-64"],
        cwd=tmp_path,
        env=alone,
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stdout
    assert "1 passed" in child.stdout
