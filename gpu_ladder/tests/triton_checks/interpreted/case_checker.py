"""The checker finds what was planted, at its line, and nothing else, in every order."""

from __future__ import annotations

import inspect
from pathlib import Path

import planted_kernels as planted
import pytest
import torch

from gpu_ladder.triton_checks.interpreter import ORDERS, checked
from gpu_ladder.triton_checks.shadow import Finding

SOURCE = Path(inspect.getfile(planted)).read_text().splitlines()


@pytest.fixture(params=ORDERS)
def order(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


def _assert_only(findings: list[Finding], kind: str, mark: str = "# fault") -> None:
    assert {finding.kind for finding in findings} == {kind}
    for finding in findings:
        path, _, line = finding.site.partition(" <- ")[0].rpartition(":")
        assert Path(path).name == "planted_kernels.py"
        assert mark in SOURCE[int(line) - 1]


def test_what_is_right_has_no_finding(order: str) -> None:
    source, target = torch.randn(100), torch.zeros(100)
    with checked({"source": source, "target": target}, order) as findings:
        planted.double[(4,)](source, target, 100, BLOCK=32)
    assert not findings
    assert torch.equal(target, 2 * source)


@pytest.mark.parametrize("kernel", ["store_without_mask", "load_without_mask"])
def test_a_missing_mask_is_out_of_bounds_and_not_performed(order: str, kernel: str) -> None:
    around = torch.zeros(3, 100)
    source, target = torch.randn(3, 100)[1], around[1]
    with checked({"source": source, "target": target}, order) as findings:
        getattr(planted, kernel)[(4,)](source, target, 100, BLOCK=32)
    _assert_only(findings, "out_of_bounds")
    assert torch.equal(target, 2 * source)
    assert not around[0].any()
    assert not around[2].any()


def test_a_fault_in_a_device_function_names_its_caller_too() -> None:
    source, target = torch.randn(100), torch.zeros(100)
    with checked() as findings:
        planted.load_without_mask[(4,)](source, target, 100, BLOCK=32)
    inner, outer = findings[0].site.split(" <- ")
    assert "tl.load(source + place)" in SOURCE[int(inner.rpartition(":")[2]) - 1]
    assert "read(source, place)" in SOURCE[int(outer.rpartition(":")[2]) - 1]


@pytest.mark.parametrize("stride", [7, 9])
def test_a_wrong_stride_reads_the_padding(order: str, stride: int) -> None:
    source = torch.randn(5, 8)[:, :6]
    target = torch.zeros(5, 6)
    with checked({"source": source, "target": target}, order) as findings:
        planted.copy_rows[(1,)](source, target, stride, 5, 6, ROWS=8, COLUMNS=8)
    _assert_only(findings, "out_of_bounds", "# stride")
    with checked({"source": source, "target": target}, order) as findings:
        planted.copy_rows[(1,)](source, target, 8, 5, 6, ROWS=8, COLUMNS=8)
    assert not findings
    assert torch.equal(target, source)


@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [("count", ()), ("write_own_number", ()), ("read_what_the_next_writes", (5,))],
)
def test_programs_that_meet_are_a_race(order: str, kernel: str, arguments: tuple) -> None:
    """Also where the result happens to be right, as after counting one by one."""
    target = torch.zeros(5)
    with checked(order=order) as findings:
        getattr(planted, kernel)[(5,)](target, *arguments)
    _assert_only(findings, "race")
    if kernel == "count":
        assert target[0] == 5


@pytest.mark.parametrize(("kernel", "result"), [("count_atomically", 5), ("write_the_same", 7)])
def test_atomics_and_equal_values_are_no_race(order: str, kernel: str, result: int) -> None:
    target = torch.zeros(1)
    with checked(order=order) as findings:
        getattr(planted, kernel)[(5,)](target)
    assert not findings
    assert target.item() == result


def test_launches_are_one_after_the_other() -> None:
    target = torch.zeros(1)
    with checked() as findings:
        for _ in range(3):
            planted.count[(1,)](target)
    assert not findings
    assert target.item() == 3


def test_what_many_have_read_the_next_launch_may_write() -> None:
    source, target = torch.ones(1), torch.zeros(64)
    with checked() as findings:
        planted.spread[(4,)](source, target, BLOCK=16)
        planted.count[(1,)](source)
        planted.spread[(4,)](source, target, BLOCK=16)
    assert not findings
    assert (target == 2).all()


def test_what_nobody_has_written_is_uninitialised(order: str) -> None:
    with checked(order=order) as findings:
        source, target = torch.empty(64), torch.empty(64)
        source[:63] = 1.0
        planted.double[(2,)](source, target, 63, BLOCK=32)
        assert not findings
        planted.double[(2,)](source, target, 64, BLOCK=32)
    assert [finding.kind for finding in findings] == ["uninitialised"]
    assert "element 63 of torch.empty" in findings[0].message


def test_what_a_kernel_has_written_is_initialised() -> None:
    with checked() as findings:
        source, target, last = torch.ones(64), torch.empty(64), torch.zeros(64)
        planted.double[(2,)](source, target, 64, BLOCK=32)
        planted.double[(2,)](target, last, 64, BLOCK=32)
    assert not findings
    assert (last == 4).all()


def test_bfloat16_is_rounded_to_the_nearest_even() -> None:
    source = torch.randn(4096) * torch.logspace(-37, 37, 4096)
    source[:7] = torch.tensor(
        [1 + 2**-8, 1 + 3 * 2**-8, 1e-40, 3.39e38, float("inf"), float("nan"), -0.0]
    )
    target = torch.zeros(4096, dtype=torch.bfloat16)
    with checked():
        planted.round_to[(1,)](source, target, BLOCK=4096)
    torch.testing.assert_close(target, source.to(torch.bfloat16), rtol=0, atol=0, equal_nan=True)


def test_an_unknown_order_is_refused() -> None:
    with pytest.raises(ValueError, match="forward, reverse, random"), checked(order="sideways"):
        pass
