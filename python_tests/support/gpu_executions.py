"""Every way to run a GPU backend: on a CPU, by the ladder's models, or on a device.

    cuda-host              the CUDA source, on the host model of threads and blocks
    cuda-checked-reverse   the same, every access checked, threads and blocks in that order
    cuda-sanitized         the same under AddressSanitizer and UBSan (where they are preloaded)
    cuda-ptx-sm_90         the PTX that nvcc makes of it for that architecture, interpreted
    triton-interpreter     the Triton source, by Triton's interpreter (with TRITON_INTERPRET=1)
    triton-ptx-sm_90       the PTX that Triton makes of it, interpreted
    cuda, triton           on a GPU

On a CPU all memory is the host's, so tensors of the tests go to the kernels as they are. Everything
is checked while it runs where the execution can: what was found fails the test.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import importlib.util
import math
import os
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pytest
import torch

from adadagrad_kernels import _native, checks
from adadagrad_kernels.backends import BACKENDS, cuda, outputs, triton, use_backend
from support.on_device import OnDevice

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
DEVICES = ("cuda", "triton")
SCHEDULES = ("forward", "reverse", "random")
ON_CPU = (
    "cuda-host",
    *(f"cuda-checked-{schedule}" for schedule in SCHEDULES),
    "cuda-sanitized",
    *(f"cuda-ptx-{architecture}" for architecture in ARCHITECTURES),
    "triton-interpreter",
    *(f"triton-ptx-{architecture}" for architecture in ARCHITECTURES),
)
EXECUTIONS = (*ON_CPU, *DEVICES)
#: Ways in which lists of tensors are never read as a whole (see ``known_buffers``).
READ_NO_LISTS = ("cuda-checked", "cuda-ptx", "triton")
#: Left out unless asked for (--gpu-cases all): other orders, runs without checks where one with
#: them is left, and architectures whose bits ``ops/test_gpu_bits.py`` compares, at night too.
NIGHTLY = (
    *("cuda-host", "cuda-checked-forward", "cuda-checked-reverse"),
    *("cuda-ptx-sm_80", "cuda-ptx-sm_100", "cuda-ptx-sm_120"),
    *("triton-ptx-sm_80", "triton-ptx-sm_100", "triton-ptx-sm_120"),
)
#: Files whose many runs take Triton's larger code minutes; likewise.
NIGHTLY_FOR_TRITON = (
    *("test_determinism.py", "test_properties.py", "test_device_scalars.py"),
    # Of one kernel at a time, which other tests of it run by day.
    *("test_mutation.py", "test_sums_over_rows.py"),
    # By day `gpu_ladder/tests/triton_checks/test_triton_ptx.py` has a few telling sizes of these.
    *("test_norm_layer_moments.py", "test_embedding_moments.py", "test_sparse_mean_step.py"),
)
#: Of other files the tests of large sizes, which machine code executed on a host takes seconds for,
#: and what those of every size have in them too.
NIGHTLY_TESTS_FOR_TRITON = (
    "test_matches_the_definition_at_extreme_shapes",
    "test_wide_rows_are_summed_in_float64",
    "test_what_is_not_finite_stays_in_its_column_and_row",
    "test_is_the_two_ops_one_after_the_other",
)
#: Of the same code on the host model, where its machine code runs by day in random orders too.
NIGHTLY_ON_THE_HOST = ("test_determinism.py", "test_sums_over_rows.py")
#: Types that only the night has for Triton: a variant of a kernel takes half a second to compile,
#: and in Triton's source float16 and bfloat16 differ by a name.
NIGHTLY_TYPES_FOR_TRITON = (torch.float16,)
#: Files of updates that a launch makes for many tensors or a whole batch, in as many variants:
#: by day Triton has them in float32 alone.
FLOAT32_BY_DAY_FOR_TRITON = ("test_batch_adagrad_step.py", "test_adagrad_norm_step.py")
#: Files whose op is other files' passes around plain torch, and the test that runs by day on GPU
#: kernels: it asks for all that the op gives.
PASSES_OF_OTHERS = {
    "test_linear_moments.py": "test_identities",
    "test_conv_moments.py": "test_identities",
}


def is_left_out(way: object, file: str, test: str, nightly: bool) -> bool:
    """Whether a test of a file that runs the kernels in this way is not for this run."""
    if way == "cuda-sanitized":
        return not _is_sanitized()
    if way == "triton-interpreter":
        return not _is_interpreted()
    if nightly or way not in ON_CPU:
        return False
    if test != PASSES_OF_OTHERS.get(file, test):
        return True
    if str(way).startswith("cuda-checked") and file in NIGHTLY_ON_THE_HOST:
        return True
    for_triton = file in NIGHTLY_FOR_TRITON or test in NIGHTLY_TESTS_FOR_TRITON
    return way in NIGHTLY or (str(way).startswith("triton-ptx") and for_triton)


def is_of_the_night(way: object, file: str, types: Collection[torch.dtype]) -> bool:
    """Whether a test with these types of elements is Triton's, and not for the day."""
    if not str(way).startswith("triton-ptx"):
        return False
    alone = file in FLOAT32_BY_DAY_FOR_TRITON
    left = (torch.float16, torch.bfloat16) if alone else NIGHTLY_TYPES_FOR_TRITON
    return not set(left).isdisjoint(types)


def widest(way: str) -> torch.dtype:
    """The widest type of elements that a way to run an op takes."""
    return torch.float32 if way.startswith(DEVICES) else torch.float64


def _is_sanitized() -> bool:
    return "libasan" in os.environ.get("LD_PRELOAD", "")


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


#: Of the emulated device: few multiprocessors, so that blocks take several tiles each.
MULTIPROCESSORS = 2


@contextlib.contextmanager
def running(execution: str) -> Iterator[None]:
    """Run the ops inside the context in one of ``EXECUTIONS``; skip where that cannot be."""
    name, _, how = execution.partition("-")
    if not how:
        context = _on_device(name)
    elif execution == "cuda-host":
        context = _host_model()
    elif execution == "cuda-sanitized":
        context = _sanitized_host_model()
    elif execution.startswith("cuda-checked-"):
        context = _checked_host_model(how.removeprefix("checked-"))
    elif execution == "triton-interpreter":
        context = _interpreter()
    else:
        compiler, _, architecture = how.partition("-")
        assert compiler == "ptx"
        context = _cuda_ptx(architecture) if name == "cuda" else _triton_ptx(architecture)
    with context:
        yield


@contextlib.contextmanager
def _on_device(name: str) -> Iterator[None]:
    backend = BACKENDS[name]
    reason = backend.unavailable()
    if reason is not None:
        pytest.skip(f"backend {name}: {reason}")
    device = torch.device("cuda", torch.cuda.current_device())
    with _standing_in(name, OnDevice(backend.module, device)):
        yield


@contextlib.contextmanager
def _standing_in(name: str, module: Any) -> Iterator[None]:
    """Have ``module`` run the ops on CPU tensors under a backend's name."""
    patch = pytest.MonkeyPatch()
    backend = dataclasses.replace(BACKENDS[name], device="cpu", module=module)
    patch.setitem(BACKENDS, name, backend)
    try:
        with use_backend(name):
            yield
    finally:
        patch.undo()


@contextlib.contextmanager
def emulated_cuda(flavour: str = "plain") -> Iterator[Any]:
    """The cuda backend on host memory; gives the control of the emulated device."""
    emulated = _emulated(flavour)
    emulated.reset()
    emulated.set_device_attribute(0, "MultiProcessorCount", MULTIPROCESSORS)
    patch = pytest.MonkeyPatch()
    patch.setattr(_native, "C_cuda", emulated.module)
    patch.setattr(cuda, "_DLPACK_DEVICE", 1)
    patch.setattr(cuda, "_index", lambda device: 0)
    patch.setattr(cuda, "_stream", lambda device: 0)
    try:
        with _standing_in("cuda", cuda):
            yield emulated
    finally:
        patch.undo()
        emulated.reset()


@contextlib.contextmanager
def known_buffers(add_buffer: Callable[..., None]) -> Iterator[None]:
    """Tell a checker of every tensor that the cuda backend takes, and of the memory it makes.

    New memory is as long as asked for and begins at a multiple of 256 bytes, as on a device.
    """
    patch = pytest.MonkeyPatch()
    kept: list[torch.Tensor] = []

    def allocate(shape: int | tuple[int, ...], dtype: torch.dtype, device: Any) -> torch.Tensor:
        sizes = (shape,) if isinstance(shape, int) else shape
        size = math.prod(sizes) * dtype.itemsize
        memory = torch.full((size + 512,), 0xFF, dtype=torch.uint8)
        start = -memory.data_ptr() % 256
        tensor = memory[start : start + size].view(dtype).view(sizes)
        if size:
            add_buffer(f"new memory of {size} bytes", (tensor.data_ptr(), size), initialised=False)
        kept.append(memory)
        return tensor

    def address(tensor: torch.Tensor) -> int:
        if tensor.numel():
            add_buffer(f"a tensor of shape {tuple(tensor.shape)}", tensor, initialised=True)
        return checks.address(tensor)

    def allocate_like(tensor: torch.Tensor) -> torch.Tensor:
        return allocate(tuple(tensor.shape), tensor.dtype, tensor.device)

    patch.setattr(outputs, "allocate", allocate)
    patch.setattr(outputs, "allocate_like", allocate_like)
    patch.setattr(cuda, "address", address)
    # What reads whole lists at once does not ask for the address of each.
    for name in ("quick_adagrad_step_", "quick_adagrad_norm_step_"):
        patch.delattr(cuda, name)
    try:
        yield
    finally:
        patch.undo()


@functools.cache
def _emulated(flavour: str) -> Any:
    try:
        from gpu_ladder import emulated
    except ImportError:
        pytest.skip("the ladder is not here: the tests run away from the sources")
    loaded = emulated.load(flavour)
    _native.introduce_tensors(loaded.module)
    return loaded


def assert_nothing_found(findings: list[Any]) -> None:
    """Fails with what the checks have found."""
    assert not findings, "\n".join(f"{finding.kind}: {finding.message}" for finding in findings)


@contextlib.contextmanager
def _host_model() -> Iterator[None]:
    with emulated_cuda() as emulated:
        yield
        assert_nothing_found(emulated.findings())


@contextlib.contextmanager
def _sanitized_host_model() -> Iterator[None]:
    with emulated_cuda("sanitized") as emulated:
        yield
        assert_nothing_found(emulated.findings())


@contextlib.contextmanager
def _checked_host_model(schedule: str) -> Iterator[None]:
    with emulated_cuda("checked") as emulated, known_buffers(emulated.add_buffer):
        emulated.count_traffic(False)
        emulated.set_schedule(schedule, seed=1)
        yield
        assert_nothing_found(emulated.findings())


@contextlib.contextmanager
def _cuda_ptx(architecture: str) -> Iterator[None]:
    machine = PtxMachine(architecture)
    with emulated_cuda() as emulated, known_buffers(machine.add_buffer):
        emulated.set_launch_hook(machine)
        yield
        machine.assert_nothing_found()


class PtxMachine:
    """Runs the launches of the emulated device on the PTX of one architecture.

    Args:
        architecture: such as ``sm_90``.
        order: of blocks and warps.
        checks: whether to look for races and bad accesses, and to count traffic.
    """

    def __init__(self, architecture: str, order: str = "random", checks: bool = True) -> None:
        self.modules = _ptx_modules(architecture)
        self.order = order
        self.checks = checks
        self.reports: list[tuple[str, Any]] = []
        self._buffers: dict[int, Any] = {}
        self._errors: list[BaseException] = []

    def add_buffer(self, name: str, memory: Any, *, initialised: bool) -> None:
        from gpu_ladder.emulated import span
        from gpu_ladder.ptx import Buffer

        address, size = memory if isinstance(memory, tuple) else span(memory)
        self._buffers.pop(address, None)  # so that it comes after those it overlaps
        self._buffers[address] = Buffer(name, address, size, initialised)

    def __call__(self, name: bytes, grid: Any, block: Any, args: Any, shared_bytes: int) -> int:
        try:
            kernel = next(
                m.kernels[name.decode()] for m in self.modules if name.decode() in m.kernels
            )
            report = kernel.launch_raw(
                grid[:3],
                block[:3],
                ctypes.cast(args, ctypes.c_void_p).value,
                shared_bytes,
                order=self.order,
                seed=len(self.reports),
                buffers=list(self._buffers.values()) if self.checks else (),
                checks=self.checks,
            )
        except BaseException as error:  # a callback of C has nobody to raise to
            self._errors.append(error)
            return 1
        self.reports.append((name.decode(), report))
        # What one kernel has written the next one may read.
        for address, buffer in self._buffers.items():
            self._buffers[address] = dataclasses.replace(buffer, initialised=True)
        return 0

    def assert_nothing_found(self) -> None:
        if self._errors:
            raise self._errors[0]
        for name, report in self.reports:
            assert report.outcome == "finished", f"{name}: {report.outcome}"
            assert_nothing_found(report.findings)


@functools.cache
def _ptx_modules(architecture: str) -> list[Any]:
    """The kernels of csrc/cuda as nvcc compiles them; skips where it cannot."""
    try:
        from gpu_ladder.ptx import Module
        from gpu_ladder.static import cuda_gate, toolchain
    except ImportError:
        pytest.skip("the ladder is not here: the tests run away from the sources")
    if (reason := toolchain.missing()) is not None:
        pytest.skip(f"no PTX: {reason}")
    sources = cuda_gate.ROOT / "csrc"
    number = int(architecture.removeprefix("sm_"))
    return [
        Module(cuda_gate.compile_source(source, number, [sources]).ptx.read_text())
        for source in sorted((sources / "cuda").glob("*.cu"))
    ]


@contextlib.contextmanager
def _interpreter() -> Iterator[None]:
    with _standing_in("triton", triton):
        yield


@contextlib.contextmanager
def _triton_ptx(architecture: str) -> Iterator[None]:
    with running_triton(architecture):
        yield


@contextlib.contextmanager
def running_triton(architecture: str, order: str = "random") -> Iterator[Any]:
    """The triton backend on the PTX of one architecture; gives the machine with its reports."""
    with triton_machine(architecture, order) as machine, _standing_in("triton", triton):
        yield machine
        assert_nothing_found([finding for _, finding in machine.findings])


@contextlib.contextmanager
def triton_machine(architecture: str, order: str = "random", checks: bool = True) -> Iterator[Any]:
    """Triton's launches on the PTX of one architecture; gives the machine with its reports."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("no PTX: Triton is not installed")
    if _is_interpreted():
        pytest.skip("no machine code: Triton interprets in this process")
    try:
        from gpu_ladder.triton_checks.ptx_executor import PtxExecutor
    except ImportError:
        pytest.skip("the ladder is not here: the tests run away from the sources")
    from adadagrad_kernels.backends.triton._launch import set_executor

    machine = PtxExecutor(int(architecture.removeprefix("sm_")), order, checks, seed=1)
    with machine.running(set_executor):
        yield machine
