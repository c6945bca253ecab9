"""What cp.async brings is there after the wait; a slot is free when nobody reads it any more."""

from __future__ import annotations

import numpy as np
import pytest
from ladder_arrays import ORDERS, aligned, call, filled, kinds

from gpu_ladder.emulated import ERRORS, Emulated

ROWS = 7
FAULTS = {
    "no wait": (1, {"uninitialised"}),
    "a wait for one group too few": (2, {"uninitialised"}),
    "a copy into the slot that is read next": (3, {"uninitialised"}),
    "another thread's copy without a barrier": (4, {"race"}),
}


def _ring(emulated: Emulated, fault: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(0).integers(1, 9, (ROWS, 64, 4)).astype(np.float32)
    out = aligned(256)
    assert call(emulated, "ring", filled(values), out, ROWS, fault, unwritten=(1,)) == 0
    values[-1, :, 3] = 0  # the last four bytes are zeros, and nothing reads them
    return out.reshape(64, 4), values.sum(0)


def test_a_ring_adds_up_what_was_copied(emulated: Emulated) -> None:
    for order in ORDERS:
        emulated.set_schedule(*order)
        given, right = _ring(emulated, 0)
        np.testing.assert_array_equal(given, right)
        assert emulated.findings() == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_ring_is_found(checked: Emulated, name: str) -> None:
    fault, found = FAULTS[name]
    for order in ORDERS:
        checked.set_schedule(*order)
        checked.clear_findings()
        _ring(checked, fault)
        assert found <= kinds(checked)
        assert all("asynchronous.cu:" in finding.message for finding in checked.findings())


@pytest.mark.parametrize("name", [name for name in FAULTS if "another" not in name])
def test_a_fault_of_the_ring_shows_in_the_numbers(plain: Emulated, name: str) -> None:
    given, right = _ring(plain, FAULTS[name][0])
    assert (given != right).any()


def test_the_zeros_behind_a_copy_are_not_read(checked: Emulated) -> None:
    values = filled(np.ones(ROWS * 256, np.float32))
    assert call(checked, "ring", values[:-1], aligned(256), ROWS, 0) == 0
    assert checked.findings() == []
    assert call(checked, "ring", values[:-2], aligned(256), ROWS, 0) != 0
    assert kinds(checked) == {"out_of_bounds"}


@pytest.mark.parametrize(("first", "bytes"), [(1, 16), (0, 12)])
def test_a_copy_that_cannot_be(emulated: Emulated, first: int, bytes: int) -> None:
    error = call(emulated, "misplaced_copy", aligned(8), aligned(1), first, bytes)
    assert error == ERRORS["cudaErrorMisalignedAddress"]
    assert kinds(emulated) == {"misaligned"}


def test_a_copy_from_beyond_a_buffer(checked: Emulated) -> None:
    error = call(checked, "misplaced_copy", aligned(4), aligned(1), 4, 16)
    assert error == ERRORS["cudaErrorIllegalAddress"]
    assert kinds(checked) == {"out_of_bounds"}
