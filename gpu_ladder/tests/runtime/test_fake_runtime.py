"""The fake runtime refuses what the real one refuses, and fails when told to."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from ladder_arrays import aligned, call, filled

from gpu_ladder.emulated import ERRORS, Emulated
from gpu_ladder.host_build import build


def launch(emulated: Emulated, blocks: int = 1, threads: int = 32, shared: int = 512) -> str:
    values = filled(np.zeros(8 * 2048, np.float32))
    out = aligned(values.size)
    error = call(emulated, "reverse_parts", values, out, blocks, threads, shared)
    return next(name for name, number in ERRORS.items() if number == error)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "cudaSuccess"),
        ({"threads": 1024, "shared": 16384}, "cudaSuccess"),
        ({"threads": 1025, "shared": 16400}, "cudaErrorInvalidConfiguration"),
        ({"threads": 0}, "cudaErrorInvalidConfiguration"),
        ({"blocks": 0}, "cudaErrorInvalidConfiguration"),
        ({"shared": 48 << 10}, "cudaSuccess"),
        ({"shared": (48 << 10) + 1}, "cudaErrorInvalidValue"),
    ],
)
def test_launch_configurations(plain: Emulated, arguments: dict[str, int], error: str) -> None:
    assert launch(plain, **arguments) == error


def test_more_shared_memory_must_be_allowed(plain: Emulated) -> None:
    shared = 100 << 10
    assert launch(plain, shared=shared) == "cudaErrorInvalidValue"
    assert plain.library.allow_reverse(shared) == 0
    assert launch(plain, shared=shared) == "cudaSuccess"
    assert launch(plain, shared=shared + 1) == "cudaErrorInvalidValue"
    assert plain.library.allow_reverse((227 << 10) + 1) == ERRORS["cudaErrorInvalidValue"]
    plain.set_device_attribute(0, "MaxSharedMemoryPerBlockOptin", 64 << 10)
    assert plain.library.allow_reverse(shared) == ERRORS["cudaErrorInvalidValue"]


def test_devices(plain: Emulated) -> None:
    runtime = plain.library
    assert [runtime.device_count(), runtime.set_device(0)] == [1, 0]
    assert runtime.set_device(1) == ERRORS["cudaErrorInvalidDevice"]
    plain.set_device_count(2)
    assert [runtime.device_count(), runtime.set_device(1), runtime.current_device()] == [2, 0, 1]
    assert runtime.set_device(-1) == ERRORS["cudaErrorInvalidDevice"]
    assert runtime.attribute(75, 1) == 9
    plain.set_device_attribute(1, "ComputeCapabilityMajor", 7)
    assert [runtime.attribute(75, 0), runtime.attribute(75, 1)] == [9, 7]
    plain.set_device_count(0)
    assert runtime.device_count() == -ERRORS["cudaErrorNoDevice"]
    assert launch(plain) == "cudaErrorNoDevice"


def test_driver(plain: Emulated) -> None:
    for version in (0, 12080):
        plain.set_driver_version(version)
        assert plain.library.device_count() == -ERRORS["cudaErrorInsufficientDriver"]
        assert plain.library.driver_version() == version
        assert launch(plain) == "cudaErrorInsufficientDriver"


def test_streams(plain: Emulated) -> None:
    on_stream = plain.library.touch_on_stream
    handle = 0x5000

    def touch(stream: int) -> int:
        return int(on_stream(ctypes.c_void_p(stream)))

    assert touch(0) == 0
    assert touch(handle) == ERRORS["cudaErrorInvalidResourceHandle"]
    plain.set_device_count(2)
    plain.add_stream(handle, 0, capturing=True)
    plain.clear_launches()
    assert touch(handle) == 0
    [record] = plain.launches()
    assert record.stream == handle
    assert plain.library.is_capturing(ctypes.c_void_p(handle)) == 1
    assert plain.library.is_capturing(ctypes.c_void_p(0)) == 0
    assert plain.library.set_device(1) == 0
    assert touch(handle) == ERRORS["cudaErrorInvalidResourceHandle"]  # it is of the other device


def test_occupancy(plain: Emulated) -> None:
    occupancy = plain.library.occupancy
    assert occupancy(256, 0) == 8
    assert occupancy(1024, 0) == 2
    assert occupancy(32, 0) == 32
    assert occupancy(64, 47 << 10) == 4
    assert occupancy(2000, 0) == 0
    assert occupancy(0, 0) == -ERRORS["cudaErrorInvalidValue"]


def test_failures_on_demand(plain: Emulated) -> None:
    plain.fail_next("cudaLaunchKernel", "cudaErrorLaunchOutOfResources", after=1)
    results = [launch(plain) for _ in range(3)]
    assert results == ["cudaSuccess", "cudaErrorLaunchOutOfResources", "cudaSuccess"]
    plain.fail_next("cudaGetDevice", "cudaErrorInitializationError")
    assert plain.library.current_device() == -ERRORS["cudaErrorInitializationError"]
    assert plain.library.current_device() == 0


def test_last_error_is_kept_until_it_is_asked_for(plain: Emulated) -> None:
    assert plain.library.last_error() == 0
    launch(plain, blocks=0)
    launch(plain)
    assert plain.library.peek_error() == ERRORS["cudaErrorInvalidConfiguration"]
    assert plain.library.last_error() == ERRORS["cudaErrorInvalidConfiguration"]
    assert plain.library.last_error() == 0


def test_names_of_errors(plain: Emulated) -> None:
    name, text = plain.library.error_name, plain.library.error_text
    name.restype = text.restype = ctypes.c_char_p
    for expected, number in ERRORS.items():
        assert name(number).decode() == expected
        assert text(number).decode() != "unrecognized error code"
    assert name(12345) == b"unrecognized error code"


def test_launches_are_recorded_by_the_compilers_name(plain: Emulated) -> None:
    plain.clear_launches()
    launch(plain, blocks=2, threads=64, shared=1024)
    [record] = plain.launches()
    assert record.function == "_Z14reverse_kernelPK6float4PS_"
    assert (record.grid, record.block) == ((2, 1, 1), (64, 1, 1))
    assert (record.shared_bytes, record.stream, record.device) == (1024, 0, 0)


def test_launch_hook_runs_kernels_instead(plain: Emulated) -> None:
    seen = []

    def hook(name: bytes, grid, block, args, shared_bytes: int) -> int:
        pointer = ctypes.cast(args[0], ctypes.POINTER(ctypes.c_void_p)).contents.value
        seen.append((name, grid[0], block[0], shared_bytes, pointer))
        return ERRORS["cudaErrorLaunchFailure"]

    values, out = filled(np.ones(128, np.float32)), aligned(128)
    plain.set_launch_hook(hook)
    error = call(plain, "reverse_parts", values, out, 1, 32, 512)
    assert error == ERRORS["cudaErrorLaunchFailure"]
    assert seen == [(b"_Z14reverse_kernelPK6float4PS_", 1, 32, 512, values.ctypes.data)]
    assert not out.any()
    plain.set_launch_hook(None)
    assert call(plain, "reverse_parts", values, out, 1, 32, 512) == 0
    assert out.all()


def test_memory_that_the_runtime_sets_counts_as_written(checked: Emulated) -> None:
    out = aligned(32)
    memory = aligned(32)
    assert call(checked, "zero_and_copy", memory, out, 128, unwritten=(0, 1)) == 0
    assert checked.findings() == []
    assert call(checked, "zero_and_copy", memory, out, 124, unwritten=(0, 1)) == 0
    assert [finding.kind for finding in checked.findings()] == ["uninitialised"]


def test_unknown_names_are_refused(plain: Emulated) -> None:
    with pytest.raises(ValueError, match="accepted are plain, checked, sanitized"):
        build("fast")
    with pytest.raises(ValueError, match="accepted are forward, reverse, random"):
        plain.set_schedule("backward")
