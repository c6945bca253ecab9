"""Rounds of a measurement on a GPU, with a fake device."""

from __future__ import annotations

import json

import pytest
import torch
from support.benchmark_fakes import FakeDevice, case_of

from benchmarks.gpu.contenders import COPY
from benchmarks.gpu.counts import Call
from benchmarks.gpu.measure import FEWEST, MOST, WARM_UP, LeftOut, Result, measure, measure_all
from benchmarks.gpu.plan import Case

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
    contenders = json.loads(json.dumps(result.record()))["contenders"]
    assert contenders["ours"]["over_copy"] == [1.5, 1.5, 1.5]
    assert contenders["ours"]["spread"][0] == pytest.approx(1.5 * 2.5)
    assert "over_copy" not in contenders[COPY]
    without = _measured(case_of(device, [], ours=[1.0]), device)
    assert "over_copy" not in without.record()["contenders"]["ours"]


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
    results = list(measure_all(cases, device, deadline=9.0, now=device.host_clock))
    assert [(type(result), result.case.title) for result in results] == [
        (Result, "case 0"), (Result, "case 1"), (LeftOut, "case 2"), (LeftOut, "case 3"),
    ]  # fmt: skip
    assert device.freed == 2


def test_time_that_is_left_goes_to_later_cases() -> None:
    device = FakeDevice()
    cases = [Case("op_", str(n), 1, case_of(device, [], a=[0.01]).contenders) for n in range(3)]
    rounds = []
    for result in measure_all(cases, device, deadline=1000.0, now=device.host_clock):
        assert isinstance(result, Result)
        rounds.append((result.case.title, len(result.seconds["a"]), device.freed))
    assert rounds == [(str(n), MOST, n) for n in range(3)], "each is given when it is done"


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
