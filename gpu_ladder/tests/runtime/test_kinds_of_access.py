"""What the checked flavour sees: whole objects, volatile flags, and the width of every access."""

from __future__ import annotations

import numpy as np
import pytest
from ladder_arrays import ORDERS, aligned, call, filled, kinds

from gpu_ladder.emulated import ERRORS, Emulated

RECORD = 12  # floats


def test_copies_of_objects_are_seen(checked: Emulated) -> None:
    values = filled(np.arange(32 * RECORD, dtype=np.float32))
    out = aligned(values.size)
    assert call(checked, "copy_records", values, out, unwritten=(1,)) == 0
    np.testing.assert_array_equal(out.reshape(32, RECORD), values.reshape(32, RECORD)[::-1])
    assert checked.findings() == []
    assert call(checked, "copy_records", values, out, unwritten=(0,)) == 0
    assert kinds(checked) == {"uninitialised"}


def test_copy_behind_the_end(checked: Emulated) -> None:
    values = aligned(32 * RECORD)
    error = call(checked, "copy_records", values[:-1], aligned(values.size))
    assert error == ERRORS["cudaErrorIllegalAddress"]
    [finding] = checked.findings()
    assert finding.kind == "out_of_bounds"
    assert "copies.cu:" in finding.site


def test_overlapping_memset(checked: Emulated) -> None:
    assert call(checked, "clear_records", aligned(5 * RECORD), 48) == 0
    assert checked.findings() == []
    assert call(checked, "clear_records", aligned(5 * RECORD), 49) == 0
    assert kinds(checked) == {"race"}


def test_volatile_flag_needs_fences(checked: Emulated) -> None:
    for with_fence in (1, 0):
        raised, number, out = aligned(1, np.uint32), aligned(1), aligned(1)
        assert call(checked, "flag", raised, number, out, with_fence) == 0
        assert out[0] == 5
        assert kinds(checked) == (set() if with_fence else {"race"})


def test_a_thread_may_wait_for_another_by_a_volatile_flag(checked: Emulated) -> None:
    for order in ORDERS:
        checked.set_schedule(*order)
        number = aligned(2)
        assert call(checked, "waiting_flag", aligned(1, np.uint32), number) == 0
        assert number[0] == 3
    assert checked.findings() == []


@pytest.mark.parametrize("offset", [0, 16])
def test_vectors_are_one_access_of_16_bytes(checked: Emulated, offset: int) -> None:
    values = filled(np.ones(1024, np.float32), offset)
    assert call(checked, "scale", values, values.size, 2.0) == 0
    load, store = checked.traffic()
    for site in (load, store):
        assert site.access_bytes == 16
        assert site.requests == 8
        assert site.bytes == 4096
        assert site.ideal_sectors == 128
        # From the middle of a sector on, every request touches one sector more.
        assert site.sectors == (128 if offset == 0 else 136)
    assert (load.write, store.write) == (False, True)
    [buffer] = checked.buffer_traffic()
    assert buffer.sectors_read == buffer.sectors_written == (128 if offset == 0 else 129)


def test_transposed_tile_has_no_bank_conflicts(checked: Emulated) -> None:
    values = aligned(64 * 64)
    assert call(checked, "transpose", values, aligned(values.size), 64, 64, 1) == 0
    shared = [site for site in checked.traffic() if site.shared]
    assert len(shared) == 2
    for site in shared:
        assert site.requests == 4 * 32
        assert site.wavefronts == site.ideal_wavefronts == 4 * 32


def test_traffic_can_be_left_uncounted(checked: Emulated) -> None:
    checked.count_traffic(False)
    values = aligned(1024)
    assert call(checked, "scale", values, values.size, 2.0) == 0
    assert checked.traffic() == []
    assert checked.buffer_traffic()[0].sectors_read == 0
