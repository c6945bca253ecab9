"""Rounds of a measurement on a GPU, with a fake device, and the page that tells of them."""

from __future__ import annotations

import json

import pytest
import torch
from gpu_contenders import COPY, Call
from gpu_measure import FEWEST, MOST, WARM_UP, Result, Results, measure, measure_all
from gpu_page import Outcome, Report, as_data, page
from gpu_plan import Case
from support.benchmark_fakes import FakeDevice, case_of

NEVER = float("inf")


def _measured(case: Case, device: FakeDevice, until: float = NEVER) -> Result:
    result = measure(case, device, until=until, last=NEVER, now=device.host_clock)
    assert result is not None
    return result


def test_every_contender_runs_in_every_round_and_the_first_moves_on() -> None:
    device, order = FakeDevice(), []
    result = _measured(case_of(device, order, a=[1.0], b=[2.0], c=[3.0]), device)
    rounds = order[3 * WARM_UP :]
    assert ["".join(rounds[i : i + 3]) for i in range(0, 9, 3)] == ["abc", "bca", "cab"]
    assert result.seconds == {"a": [1.0] * MOST, "b": [2.0] * MOST, "c": [3.0] * MOST}
    assert device.flushes == [True] * 3 * MOST


def test_ratios_are_formed_within_rounds() -> None:
    """A device that gets four times slower every other round changes no ratio."""
    device = FakeDevice()
    slow = [1.0, 4.0]
    case = case_of(device, [], ours=[1.5 * s for s in slow], copy=slow)
    result = _measured(case, device)
    assert result.over_copy("ours") == (1.5, 1.5, 1.5)
    assert result.spread("ours").median == pytest.approx(1.5 * 2.5)
    assert result.over_copy(COPY) == (1.0, 1.0, 1.0)
    without = _measured(case_of(device, [], ours=[1.0]), device)
    assert without.over_copy("ours") is None


def test_calls_that_follow_one_another_are_repeated() -> None:
    device, order = FakeDevice(), []
    case = case_of(device, order, short=[1e-5], long=[1.0])
    case = Case(case.op, case.title, case.least_bytes, case.contenders, flush=False)
    result = _measured(case, device)
    assert order.count("short") == WARM_UP + 1 + MOST * 200
    assert order.count("long") == WARM_UP + 1 + MOST
    assert result.seconds["short"] == pytest.approx([1e-5] * MOST)
    assert not any(device.flushes)


def test_rounds_end_with_their_share_of_the_time() -> None:
    device = FakeDevice()
    case = case_of(device, [], a=[0.01])
    # Warm-up takes 0.3 s of the host's clock, every round 0.1 s.
    assert len(_measured(case, device, until=0.3 + 1.0 - 1e-6).seconds["a"]) == 10
    few = _measured(case, device, until=0.0).seconds["a"]
    assert len(few) == FEWEST, "a case that was begun has enough rounds for quartiles"


def test_what_there_is_no_time_for_is_named() -> None:
    device = FakeDevice()
    cases = [
        Case("op_", f"case {n}", 1, case_of(device, [], a=[0.05]).contenders) for n in range(4)
    ]
    # All of a case in the fewest rounds: (3 + 5) x 0.5 s; two cases and a part of the third.
    results = measure_all(cases, device, deadline=9.0, now=device.host_clock)
    assert [result.case.title for result in results.measured] == ["case 0", "case 1"]
    assert results.left_out == ["op_: case 2", "op_: case 3"]
    assert device.freed == 2


def test_time_that_is_left_goes_to_later_cases() -> None:
    device = FakeDevice()
    cases = [Case("op_", str(n), 1, case_of(device, [], a=[0.01]).contenders) for n in range(3)]
    told: list[str] = []
    results = measure_all(cases, device, deadline=1000.0, now=device.host_clock, tell=told.append)
    assert [len(result.seconds["a"]) for result in results.measured] == [MOST] * 3
    assert told == ["op_: 0", "op_: 1", "op_: 2"]


def test_a_contender_that_raises_is_reported_and_the_others_go_on() -> None:
    device = FakeDevice()

    def broken() -> None:
        raise RuntimeError("no kernel image\nand more lines")

    calls = case_of(device, [], a=[1.0], copy=[1.0]).contenders() | {"triton": broken}
    result = _measured(Case("op_", "t", 1, lambda: calls), device)
    assert result.failed == {"triton": "RuntimeError: no kernel image"}
    assert set(result.seconds) == {"a", COPY}

    def no_memory() -> dict[str, Call]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    result = _measured(Case("op_", "t", 1, no_memory), device)
    assert result.failed == {"setting up": "OutOfMemoryError: CUDA out of memory"}
    assert result.seconds == {}


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
