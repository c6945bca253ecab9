"""Triton's own launcher without a GPU: a driver that gives its launches to the PTX machine.

Triton compiles a kernel at its first call, loads the machine code, packs the arguments and calls
the driver. Here all of that is executed as on a device, down to ``cuLaunchKernelEx`` of a
``libcuda.so.1`` that this module builds; what it is asked to launch runs as PTX, on CPU tensors.
`PtxExecutor`, which takes the launcher's place, watches memory; this one shows that the launcher
packs what it is given.

A process has one driver, so this is for processes of their own: it refuses where one is loaded, and
stays Triton's driver.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_ladder.places import PACKAGE, build_folder
from gpu_ladder.ptx import Kernel, Module

_SOURCE = PACKAGE / "triton_checks/stub_driver.cpp"
_HOOK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_void_p,
)
#: What the device says of itself, by the numbers of ``CUdevice_attribute``.
_ATTRIBUTES = {8: 48 << 10, 10: 32, 12: 1 << 16, 16: 2, 97: 227 << 10, 81: 228 << 10}


@dataclass(frozen=True)
class Launched:
    """One call of ``cuLaunchKernelEx``."""

    name: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared_bytes: int
    stream: int


class StubDriver:
    """Runs what Triton launches as PTX of one architecture.

    Args:
        architecture: the compute capability, such as 90.

    Attributes:
        launches: what was launched.

    Example:
        >>> with StubDriver(90).running() as driver:
        ...     kernel[(4,)](x, y, n, BLOCK=128)  # CPU tensors
        >>> driver.launches[0].grid
        (4, 1, 1)
    """

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture
        self.launches: list[Launched] = []
        self._errors: list[BaseException] = []
        self._kernels: dict[tuple[bytes, str], Kernel] = {}
        self._library = _load()
        for attribute, value in _ATTRIBUTES.items():
            self._library.stub_driver_set_attribute(attribute, value)

    @contextlib.contextmanager
    def running(self) -> Iterator[StubDriver]:
        """Make it Triton's driver, and run what is launched inside the context.

        Raises:
            BaseException: what went wrong in a launch, in place of the launcher's own error.
        """
        import triton

        hook = _HOOK(self._launch)
        knobs = triton.knobs
        with (
            tempfile.TemporaryDirectory() as cache,
            knobs.nvidia.scope(),
            knobs.cache.scope(),
        ):
            knobs.nvidia.libcuda_path = str(_library().parent)
            knobs.cache.dir = cache
            self._cache = Path(cache)
            self._library.stub_driver_set_hook(hook)
            triton.runtime.driver.set_active(_driver(self.architecture))
            try:
                yield self
            except RuntimeError:
                if self._errors:
                    raise self._errors[0] from None
                raise
            finally:
                self._library.stub_driver_set_hook(_HOOK())

    def _launch(
        self,
        name: bytes,
        image: int,
        grid: Any,
        block: Any,
        parameters: int,
        shared_bytes: int,
        stream: int | None,
    ) -> int:
        try:
            launched = Launched(
                name.decode(), tuple(grid[:3]), tuple(block[:3]), shared_bytes, stream or 0
            )
            kernel = self._kernel(launched.name, _image(image))
            report = kernel.launch_raw(
                launched.grid, launched.block, parameters, shared_bytes, checks=False
            )
            if report.outcome != "finished":
                raise RuntimeError(f"{launched.name} is {report.outcome}: {report.findings}")
            self.launches.append(launched)
        except BaseException as error:  # a callback of C has nobody to raise to
            self._errors.append(error)
            return 1
        return 0

    def _kernel(self, name: str, image: bytes) -> Kernel:
        """The PTX that Triton has kept beside the machine code."""
        if (image, name) not in self._kernels:
            for cubin in self._cache.rglob("*.cubin"):
                code = cubin.read_bytes()
                if image.startswith(code):
                    text = cubin.with_suffix(".ptx").read_text(encoding="utf-8")
                    self._kernels[image, name] = Module(text).kernels[name]
        return self._kernels[image, name]


def _image(address: int) -> bytes:
    """A cubin in memory, whose section headers come last."""
    header = ctypes.string_at(address, 64)
    first = int.from_bytes(header[40:48], "little")
    size, count = (int.from_bytes(header[at : at + 2], "little") for at in (58, 60))
    programs = int.from_bytes(header[32:40], "little")
    program_size, programs_count = (
        int.from_bytes(header[at : at + 2], "little") for at in (54, 56)
    )
    end = max(first + size * count, programs + program_size * programs_count)
    return ctypes.string_at(address, end)


def _library() -> Path:
    return build_folder() / "stub_driver/libcuda.so.1"


def _load() -> ctypes.CDLL:
    import triton.backends.nvidia

    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = {line.split()[-1] for line in maps if "/libcuda.so" in line}
    if loaded - {str(_library())}:
        raise RuntimeError(f"this process has a CUDA driver already: {', '.join(sorted(loaded))}")
    include = Path(triton.backends.nvidia.__file__).parent / "include"
    library = _library()
    if not library.is_file() or library.stat().st_mtime < _SOURCE.stat().st_mtime:
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch) / library.name
            command = [os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-fPIC", "-shared"]
            command += ["-fvisibility=hidden", f"-Wl,-soname,{library.name}", f"-I{include}"]
            subprocess.run([*command, str(_SOURCE), "-o", str(made)], check=True)
            made.rename(library)
    # Triton up to 3.5 links what it compiles by this name.
    by_name = library.with_name("libcuda.so")
    if not by_name.is_symlink():
        with contextlib.suppress(FileExistsError):  # another process has made it meanwhile
            by_name.symlink_to(library.name)
    # For all: who opens a library of this name from now on is given this one.
    return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)


def _driver(architecture: int) -> Any:
    """Triton's, with answers for what it asks torch."""
    from triton.backends.nvidia.driver import CudaDriver

    driver = CudaDriver()
    driver.get_current_device = lambda: 0
    driver.set_current_device = lambda device: None
    driver.get_current_stream = lambda device: 0
    driver.get_device_capability = lambda device=0: divmod(architecture, 10)
    return driver
