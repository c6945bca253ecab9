"""What goes wrong around a GPU: one clear Python error each, and nothing written.

Most of it is shown on the emulated device, which can be told to be too old, to be missing, to run
out of memory, or to fail in any call.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.calls import COMPOSITES, UPDATES, calls_of, make_call, tensors
from support.gpu_executions import emulated_cuda

import adadagrad_kernels
from adadagrad_kernels import _native, backends, ops, use_backend
from adadagrad_kernels.backends import BACKENDS, cuda, outputs, reference
from adadagrad_kernels.errors import BackendUnavailableError

SHAPES = [(31, 33), (700,), ()]
# Composites are these ops, launched by themselves.
CALLS = tuple(name for name in calls_of("cuda") if name.partition(" ")[0] not in COMPOSITES)


@pytest.fixture
def device() -> Iterator[Any]:
    """The emulated device, behind the backend `cuda`."""
    with emulated_cuda() as emulated:
        yield emulated


@contextlib.contextmanager
def changed(module: Any = cuda, **attributes: Any) -> Iterator[None]:
    """Attributes of a module inside the context; undone before the emulated device is."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in attributes.items():
            patch.setattr(module, name, value)
        yield


def _call(name: str) -> Any:
    return make_call(name, samples=9, features=300, shapes=SHAPES)


def _bits(results: list[torch.Tensor]) -> list[bytes]:
    return [result.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for result in results]


def _assert_refused(
    name: str, error: type[Exception] | tuple[type[Exception], ...], said: str
) -> None:
    """The call raises, says what, and has written nothing."""
    call = _call(name)
    written = list(tensors(call.written))
    before = _bits(written)
    versions = [tensor._version for tensor in written]
    with pytest.raises(error, match=said):
        call()
    assert _bits(written) == before
    assert [tensor._version for tensor in written] == versions


def test_cpu_tensors_are_refused_by_name() -> None:
    with changed(unavailable=lambda: None), use_backend("cuda"):
        _assert_refused(
            "batch_moments",
            BackendUnavailableError,
            "'cuda' cannot run: it reads cuda tensors, and these are on cpu; accepted are auto",
        )


def test_gpu_tensors_are_refused_by_the_cpu_backend() -> None:
    with (
        use_backend("cpu"),
        pytest.raises(BackendUnavailableError, match="it reads cpu tensors, and these are on cuda"),
    ):
        backends.select(torch.device("cuda", 0))


@pytest.mark.parametrize("name", ["batch_adagrad_step_", *UPDATES])
def test_tensors_on_two_devices(device: Any, name: str) -> None:
    """The check comes first: no launch, and of the other device no kernel is told."""
    call = _call(name)
    if name.startswith("batch"):
        call.arguments = (call.arguments[0].to("meta"), *call.arguments[1:])
    else:
        call.arguments[1][1] = call.arguments[1][1].to("meta")
    device.clear_launches()
    with pytest.raises(ValueError, match=r"no storage \(device meta|they must agree"):
        call()
    assert not device.launches()


# What `info` says, by what the runtime answers: compiled for, driver, devices, error.
MACHINES: dict[str, tuple[Callable[[Any], None], str]] = {
    "no driver": (lambda e: e.set_driver_version(0), "no NVIDIA driver is installed"),
    "an old driver": (
        lambda e: e.set_driver_version(12040),
        r"supports CUDA 12\.4, and these kernels were built with 13\.0; update the driver",
    ),
    "no device": (lambda e: e.set_device_count(0), r"CUDA finds no device \(.+\)"),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_a_machine_that_cannot(device: Any, machine: str) -> None:
    change, said = MACHINES[machine]
    change(device)
    _assert_refused("batch_moments", BackendUnavailableError, f"'cuda' cannot run: .*{said}")
    reason = backends.describe()["backends"]["cuda"]
    assert reason is not None
    assert re.search(said, reason)


def test_without_the_module_the_reason_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "C_cuda", None)
    monkeypatch.setattr(_native, "cuda_missing", "it was not built")
    assert cuda.unavailable() == "it was not built"


@pytest.mark.parametrize("name", CALLS)
def test_a_device_that_is_too_old(device: Any, name: str) -> None:
    device.set_device_attribute(0, "ComputeCapabilityMajor", 7)
    device.set_device_attribute(0, "ComputeCapabilityMinor", 5)
    said = r"cpu has compute capability 7\.5, and these kernels need 8\.0 or newer"
    _assert_refused(name, BackendUnavailableError, said)


def test_the_kernels_themselves_refuse_an_old_device(device: Any) -> None:
    device.set_device_attribute(0, "ComputeCapabilityMajor", 7)
    with changed(refuses=lambda where, dtype: None):
        said = r"adagrad_step_: CUDA device 0 has compute capability 7\.\d; .* need 8\.0 or newer"
        _assert_refused("adagrad_step_", RuntimeError, said)


@pytest.mark.parametrize("name", CALLS)
def test_a_device_of_another_architecture(device: Any, name: str) -> None:
    device.set_device_attribute(0, "ComputeCapabilityMajor", 10)
    device.set_device_attribute(0, "ComputeCapabilityMinor", 3)
    device.clear_launches()
    for _ in range(4):  # a list is asked about as a whole first, then by the checks
        device.fail_next("cudaFuncGetAttributes", "cudaErrorNoKernelImageForDevice")
    said = (
        r"cpu has compute capability 10\.3, and does not run the code that the kernels were "
        r"compiled to \(cudaErrorNoKernelImageForDevice: .*DCMAKE_CUDA_ARCHITECTURES=103-real"
    )
    _assert_refused(name, BackendUnavailableError, said)
    assert not device.launches()


def test_auto_goes_on_where_there_is_no_code_for_the_device(device: Any) -> None:
    device.fail_next("cudaFuncGetAttributes", "cudaErrorNoKernelImageForDevice")
    others = {name: each for name, each in BACKENDS.items() if name != "cpu"}
    with changed(backends, BACKENDS=others, _best={}), use_backend("auto"):
        assert backends.select(torch.device("cpu"), torch.float32) is reference


def test_float64_goes_to_the_reference_or_is_refused(device: Any) -> None:
    grads = torch.randn(3, 5, dtype=torch.float64)
    said = "no kernels for torch.float64; accepted are torch.float32, torch.bfloat16"
    with pytest.raises(BackendUnavailableError, match=said):
        ops.batch_moments(grads)
    others = {name: each for name, each in BACKENDS.items() if name != "cpu"}
    with changed(backends, BACKENDS=others, _best={}), use_backend("auto"):
        where = torch.device("cpu")
        assert backends.select(where, torch.float32) is cuda
        assert backends.select(where, torch.float64) is reference


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("index", [1, 5, -1])
def test_a_device_that_does_not_exist(device: Any, name: str, index: int) -> None:
    op = name.split(" ")[0]
    with changed(refuses=lambda where, dtype: None, _index=lambda where: index):
        said = f"{op}: there is no CUDA device {index}; this process sees 1, counted from 0"
        _assert_refused(name, RuntimeError, said)


@pytest.mark.parametrize("name", CALLS)
def test_a_stream_that_is_none(device: Any, name: str) -> None:
    with changed(_stream=lambda where: 0xDEAD0):
        said = f"{name.split(' ')[0]}: cudaLaunchKernel failed with cudaErrorInvalidResourceHandle"
        _assert_refused(name, RuntimeError, said)


# Every call of CUDA's runtime that comes before the first launch, and what it may answer.
FAILURES = [
    ("cudaGetDeviceCount", "cudaErrorInitializationError"),
    ("cudaGetDevice", "cudaErrorUnknown"),
    ("cudaDeviceGetAttribute", "cudaErrorInvalidDevice"),
    ("cudaOccupancyMaxActiveBlocksPerMultiprocessor", "cudaErrorNoKernelImageForDevice"),
    ("cudaLaunchKernel", "cudaErrorLaunchOutOfResources"),
    ("cudaLaunchKernel", "cudaErrorIllegalAddress"),
]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("api", "error"), FAILURES)
def test_every_error_names_the_op(device: Any, name: str, api: str, error: str) -> None:
    device.fail_next(api, error)
    op = name.split(" ")[0]
    with changed(unavailable=lambda: None, refuses=lambda where, dtype: None):
        _assert_refused(name, RuntimeError, f"{op}: {api} failed with {error}: .+")
    # The next call does not report it again.
    _call(name)()


def test_errors_are_of_one_type(device: Any) -> None:
    device.fail_next("cudaLaunchKernel", "cudaErrorUnknown")
    with pytest.raises(device.module.CudaError) as raised:
        _call("batch_moments")()
    assert isinstance(raised.value, RuntimeError)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("nth", [0, 1])
def test_no_memory_for_outputs_or_workspace(device: Any, name: str, nth: int) -> None:
    """torch's own error passes through the compiled module."""
    allocate, count = outputs.allocate, [0]

    def refuse(shape: Any, dtype: torch.dtype, where: torch.device) -> torch.Tensor:
        count[0] += 1
        is_last = dtype == torch.uint8 if nth else count[0] == 1
        if is_last:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return allocate(shape, dtype, where)

    with changed(outputs, allocate=refuse):
        _assert_refused(name, torch.OutOfMemoryError, "CUDA out of memory")
    assert not device.launches()


def test_launches_go_to_the_stream_and_device_of_the_tensors(device: Any) -> None:
    device.set_device_count(3)
    device.add_stream(0xBEEF0, device=2)
    device.clear_launches()
    with changed(_index=lambda where: 2, _stream=lambda where: 0xBEEF0):
        for name in CALLS:
            _call(name)()
    launches = device.launches()
    assert len(launches) >= 2 * len(CALLS)
    assert {(launch.stream, launch.device) for launch in launches} == {(0xBEEF0, 2)}


def test_the_current_device_stays_what_it_was(device: Any) -> None:
    device.set_device_count(2)
    with changed(_index=lambda where: 1):
        _call("batch_moments")()
    device.clear_launches()
    _call("batch_moments")()
    assert {launch.device for launch in device.launches()} == {0}


def test_what_is_captured_neither_allocates_nor_waits(device: Any) -> None:
    """In a capture every call of the runtime but launches and questions is an error."""
    device.add_stream(0xCAFE0, capturing=True)
    with changed(_stream=lambda where: 0xCAFE0):
        for name in CALLS:
            _call(name)()


def test_info_says_why_a_backend_is_missing() -> None:
    description = adadagrad_kernels.backends.describe()["backends"]
    for name in ("cuda", "triton"):
        reason = description[name]
        assert reason is None or (len(reason) > 10 and not reason.endswith("."))


def test_more_rows_than_a_grid_can_have(device: Any) -> None:
    rows = torch.ones(1, 1).expand(67_200_000, 1)
    device.clear_launches()
    with pytest.raises(RuntimeError, match="67200000 rows; accepted are at most 67107840"):
        ops.batch_moments(rows, inner_products=False)
    assert not device.launches()


def test_a_driver_of_the_same_major_version_will_do(device: Any) -> None:
    compiled_for = device.module.runtime_info()[0]
    device.set_driver_version(compiled_for // 1000 * 1000)
    assert cuda.unavailable() is None
    device.set_driver_version(compiled_for + 1010)
    assert cuda.unavailable() is None
