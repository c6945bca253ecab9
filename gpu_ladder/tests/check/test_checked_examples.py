"""The examples: a sound kernel passes on every rung, and what is planted in the others is found."""

from __future__ import annotations

from typing import Any

import pytest

from gpu_ladder.places import PACKAGE

EXAMPLES = PACKAGE / "examples"


def kinds(answer: dict[str, Any]) -> set[tuple[str, str]]:
    assert "result" in answer, answer
    return {(one["launch"], one["kind"]) for one in answer["result"]["findings"]}


def test_a_sound_kernel_passes_and_its_traffic_is_counted(checked: Any) -> None:
    status, rungs = checked(EXAMPLES / "saxpy.cu")
    assert status == 0
    for rung, answer in rungs.items():
        assert kinds(answer) == set(), rung
        assert answer["result"]["launches"] == ["saxpy of 1024", "saxpy of 1001"]
        moved = [row for row in answer["result"]["traffic"] if row["launch"] == "saxpy of 1024"]
        # x and y are read and y is written, by 256 threads that take 16 bytes each.
        assert {(row["access_bytes"], row["bytes"], row["sectors"]) for row in moved} == {
            (16, 4096, 128)
        }
        assert sorted(row["write"] for row in moved) == [False, False, True]
    assert set(rungs) == {"checked", "ptx"}


def test_a_barrier_that_is_missing_is_found_in_every_order(checked: Any) -> None:
    status, rungs = checked(EXAMPLES / "sums.cu")
    assert status == 1
    for rung, answer in rungs.items():
        found = [one for one in answer["result"]["findings"] if one["kind"] == "race"]
        assert [one["launch"] for one in found] == ["row_sums"], rung
        assert found[0]["orders"] == ["forward", "reverse", "random"]
        assert found[0]["site"].endswith("examples/sums.cu:10")


def test_of_two_triton_functions_the_one_with_the_race_is_named(checked: Any) -> None:
    pytest.importorskip("triton", reason="no compiler for GPUs: Triton is not installed")
    status, rungs = checked(EXAMPLES / "triton_kernels.py")
    assert status == 1
    assert set(rungs) == {"checked", "ptx"}
    for answer in rungs.values():
        assert kinds(answer) == {("total", "race"), ("total", "numbers")}
        assert answer["result"]["launches"] == ["scale", "total"]
