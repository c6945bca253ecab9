"""Each fault is reported where it is, by the flavour that is there for it."""

from __future__ import annotations

import numpy as np
import pytest
from ladder_arrays import ORDERS, aligned, call, filled, kinds

from gpu_ladder.emulated import ERRORS, Emulated

FAULTS = "gpu_ladder/tests/runtime/kernels/faults.cu"


def values() -> np.ndarray:
    return filled(np.arange(1024, dtype=np.float32))


def test_missing_barrier_is_found_in_every_schedule(checked: Emulated) -> None:
    wrong = []
    for order in ORDERS:
        checked.set_schedule(*order)
        checked.clear_findings()
        out = aligned(1024)
        call(checked, "transpose", values(), out, 32, 32, 0)
        wrong.append((out != values().reshape(32, 32).T.ravel()).any())
        assert kinds(checked) == {"race", "uninitialised"}
        assert all("tiles.cu:" in finding.message for finding in checked.findings())
        assert any("shared tile + " in finding.message for finding in checked.findings())
    assert any(wrong)


def test_missing_warp_synchronisation(checked: Emulated) -> None:
    out = aligned(32)
    call(checked, "neighbours", values(), out, 0)
    assert kinds(checked) == {"race", "uninitialised"}
    checked.clear_findings()
    call(checked, "neighbours", values(), out, 1)
    assert checked.findings() == []


def test_sum_of_blocks_without_atomics(emulated: Emulated) -> None:
    for order in ORDERS:
        emulated.set_schedule(*order)
        emulated.clear_findings()
        total = aligned(1)
        call(emulated, "fault_plain_sum", values(), total)
        assert total[0] == values()[:128].sum()  # the numbers never show it
        assert kinds(emulated) == ({"race"} if emulated.checks_accesses else set())


def test_missing_fence_before_the_last_block(checked: Emulated) -> None:
    partials, finished, total = aligned(7), aligned(1, np.uint32), aligned(1)
    call(checked, "sum_by_last_block", values(), 1000, partials, finished, total, 7, 0)
    assert kinds(checked) == {"race"}
    [finding] = checked.findings()
    assert "race on arg2 + 0: read of 4 bytes by block 6" in finding.message
    assert "is not ordered after the write by block 0" in finding.message


def test_store_behind_the_end(checked: Emulated) -> None:
    memory = aligned(128)
    assert call(checked, "fault_off_by_one", memory[:100], 100) == ERRORS["cudaErrorIllegalAddress"]
    [finding] = checked.findings()
    assert finding.kind == "out_of_bounds"
    assert finding.site == f"{FAULTS}:23"
    assert "begins 0 bytes after the end of arg0 (400 bytes)" in finding.message
    assert memory[100] == 0  # it was not performed


def test_store_behind_the_end_of_shared_memory(checked: Emulated) -> None:
    error = call(checked, "fault_shared_overflow", aligned(32))
    assert error == ERRORS["cudaErrorIllegalAddress"]
    [finding] = checked.findings()
    assert finding.kind == "out_of_bounds"
    assert "after the end of shared memory (128 bytes)" in finding.message


def test_misaligned_vector(checked: Emulated) -> None:
    start = values()[1:]
    assert call(checked, "fault_vector", start, aligned(32)) == ERRORS["cudaErrorMisalignedAddress"]
    [finding] = checked.findings()
    assert finding.kind == "misaligned"
    assert "read of 16 bytes" in finding.message


def test_shared_memory_that_nothing_wrote(checked: Emulated) -> None:
    call(checked, "fault_unwritten", values(), aligned(32))
    [finding] = checked.findings()
    assert finding.kind == "uninitialised"
    assert finding.count == 32
    assert "shared rows + 512" in finding.message


def test_buffer_that_nothing_wrote(checked: Emulated) -> None:
    call(checked, "neighbours", values(), aligned(32), 1, unwritten=(0,))
    assert kinds(checked) == {"uninitialised"}


def test_two_barriers(emulated: Emulated) -> None:
    for order in ORDERS:
        emulated.set_schedule(*order)
        emulated.clear_findings()
        call(emulated, "fault_two_barriers", aligned(64))
        [finding] = emulated.findings()
        assert finding.kind == "divergent_barrier"
        assert f"__syncthreads at {FAULTS}:29" in finding.message
        assert f"__syncthreads at {FAULTS}:31" in finding.message


def test_barrier_that_a_warp_skips(emulated: Emulated) -> None:
    for order in ORDERS:
        emulated.set_schedule(*order)
        emulated.clear_findings()
        call(emulated, "fault_skipped_barrier", aligned(128))
        [finding] = emulated.findings()
        assert finding.kind == "divergent_barrier"
        assert "32 of the 128 threads of block 0 returned before it" in finding.message


@pytest.mark.parametrize(
    ("function", "kind", "message", "error"),
    [
        (
            "divergent_shuffle",
            "deadlock",
            "waits for lane 16, which is in __syncthreads",
            "cudaErrorLaunchTimeout",
        ),
        (
            "absent_lanes",
            "divergent_collective",
            "names lane 16 of warp 0 of block 0, which has returned",
            "cudaSuccess",
        ),
        (
            "unmasked_shuffle",
            "divergent_collective",
            "reads lane 16, which takes no part",
            "cudaSuccess",
        ),
        ("two_shuffles", "divergent_collective", "waits here while block 0 thread", "cudaSuccess"),
    ],
)
def test_collectives_of_lanes_that_are_elsewhere(
    emulated: Emulated, function: str, kind: str, message: str, error: str
) -> None:
    for order in ORDERS:
        emulated.set_schedule(*order)
        emulated.clear_findings()
        assert call(emulated, f"fault_{function}", values(), aligned(64)) == ERRORS[error]
        assert kinds(emulated) == {kind}
        assert all(FAULTS in finding.message for finding in emulated.findings())
        assert message in "\n".join(finding.message for finding in emulated.findings())


def test_waiting_for_a_block_that_cannot_run(plain: Emulated) -> None:
    assert call(plain, "fault_waiting", aligned(1, np.uint32)) == ERRORS["cudaErrorLaunchTimeout"]
    assert kinds(plain) == {"deadlock"}
    # The other way round it ends, which is why one schedule is not enough.
    plain.clear_findings()
    plain.set_schedule("reverse")
    assert call(plain, "fault_waiting", aligned(1, np.uint32)) == 0
    assert plain.findings() == []


def test_a_grid_that_was_given_up_leaves_nothing_behind(emulated: Emulated) -> None:
    call(emulated, "fault_divergent_shuffle", values(), aligned(64))
    emulated.clear_findings()
    out = aligned(1024)
    assert call(emulated, "transpose", values(), out, 32, 32, 1) == 0
    np.testing.assert_array_equal(out, values().reshape(32, 32).T.ravel())
    assert emulated.findings() == []
