"""Rounds, ratios and peaks of memory; no test here depends on the time it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.measuring import interleaved


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


def test_peak_of_the_allocator() -> None:
    def call() -> torch.Tensor:
        torch.empty(3 << 20, dtype=torch.uint8)
        return torch.empty(1 << 20, dtype=torch.uint8).add_(1) + 1

    assert interleaved.allocated_bytes(call) == 3 << 20
    assert interleaved.allocated_bytes(lambda: None) == 0
