"""CUDA sources as Python modules that run on a CPU: built, loaded, and asked what they found.

    emulated = load("checked")
    emulated.add_buffer("grads", grads)
    emulated.set_schedule("reverse")
    emulated.module.batch_moments(...)
    assert emulated.findings() == []

A module is there in three flavours, described in ``gpu_ladder/CMakeLists.txt``. The sanitized one
can be loaded only into a process that ``sanitizer_environment()`` was given to.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gpu_ladder.cuda_numbers import ATTRIBUTES, ERRORS, LAUNCH_HOOK
from gpu_ladder.host_build import build

SCHEDULES = ("forward", "reverse", "random")


@dataclass(frozen=True)
class Finding:
    """What is wrong with a kernel, and where; ``count`` says how often it happened."""

    kind: str
    message: str
    site: str
    count: int


@dataclass(frozen=True)
class SiteTraffic:
    """What the accesses of one instruction moved; ``sectors`` are of 32 bytes."""

    site: str
    shared: bool
    write: bool
    atomic: bool
    access_bytes: int
    requests: int
    bytes: int
    sectors: int
    ideal_sectors: int
    wavefronts: int
    ideal_wavefronts: int


@dataclass(frozen=True)
class BufferTraffic:
    """How many different sectors of a buffer the last grid touched."""

    name: str
    bytes: int
    sectors_read: int
    sectors_written: int


@dataclass(frozen=True)
class Launch:
    """One call of ``cudaLaunchKernel`` that was accepted."""

    function: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared_bytes: int
    stream: int
    device: int


def sanitizer_environment() -> dict[str, str]:
    """The environment of a process that can load the sanitized flavour."""
    compiler = os.environ.get("CXX", "g++")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    options = "detect_leaks=0:abort_on_error=0"
    return {**os.environ, "LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": options}


@functools.cache
def load(flavour: str, target: str = "_C_cuda") -> Emulated:
    """Builds a module and loads it; the same one for every call."""
    path = build(flavour, target)
    if flavour == "sanitized" and "libasan" not in os.environ.get("LD_PRELOAD", ""):
        raise RuntimeError(
            "the sanitized flavour needs AddressSanitizer in the process from its start: "
            "run python with gpu_ladder.emulated.sanitizer_environment()"
        )
    return Emulated(path)


def span(memory: Any) -> tuple[int, int]:
    """Address and bytes from the first to the last element of a tensor or array."""
    if hasattr(memory, "data_ptr"):
        size = memory.element_size()
        address, strides = memory.data_ptr(), [stride * size for stride in memory.stride()]
    else:
        size = memory.itemsize
        address, strides = memory.ctypes.data, list(memory.strides)
    if 0 in memory.shape:
        return address, 0
    if any(stride < 0 for stride in strides):
        raise ValueError(f"strides are {strides}; accepted are those that are not negative")
    reach = sum((n - 1) * stride for n, stride in zip(memory.shape, strides, strict=True))
    return address, reach + size


class Emulated:
    """An emulated module, and the device that it believes to run on.

    Args:
        path: of the module's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self._hook: Any = None
        for question in ("findings", "traffic", "buffer_traffic", "launches"):
            self._function(question).restype = ctypes.c_char_p

    @functools.cached_property
    def module(self) -> ModuleType:
        """The Python module, where the file has one."""
        # pybind11 gives the module that it knows by a name, so each flavour needs its own.
        name = f"{self.path.parent.name}.{self.path.name.split('.')[0]}"
        loader = importlib.machinery.ExtensionFileLoader(name, str(self.path))
        spec = importlib.util.spec_from_file_location(name, self.path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        if module.__file__ != str(self.path):
            raise RuntimeError(f"asked for {self.path}, Python gave {module.__file__}")
        return module

    def _function(self, name: str) -> Any:
        return getattr(self.library, f"gpu_ladder_{name}")

    def _ask(self, question: str) -> Any:
        return json.loads(self._function(question)())

    @property
    def checks_accesses(self) -> bool:
        """Whether this is the checked flavour."""
        return bool(self._function("checks_accesses")())

    def set_schedule(self, schedule: str, seed: int = 0) -> None:
        """The order of threads and blocks from now on: forward, reverse or random."""
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule is {schedule!r}; accepted are {', '.join(SCHEDULES)}")
        self._function("set_schedule")(SCHEDULES.index(schedule), ctypes.c_uint64(seed))

    def add_buffer(self, name: str, memory: Any, *, initialised: bool = True) -> None:
        """Lets kernels use a tensor, an array, or a pair of an address and a number of bytes."""
        address, size = memory if isinstance(memory, tuple) else span(memory)
        self._function("add_buffer")(
            name.encode(), ctypes.c_uint64(address), ctypes.c_uint64(size), int(initialised)
        )

    def clear_buffers(self) -> None:
        """Forgets all buffers."""
        self._function("clear_buffers")()

    def findings(self) -> list[Finding]:
        """Everything that was found since they were cleared."""
        return [Finding(**finding) for finding in self._ask("findings")]

    def clear_findings(self) -> None:
        """Forgets the findings."""
        self._function("clear_findings")()

    def count_traffic(self, enabled: bool) -> None:
        """Whether the checked flavour counts what accesses move; it does unless told otherwise."""
        self._function("count_traffic")(int(enabled))

    def traffic(self) -> list[SiteTraffic]:
        """What was moved since it was cleared, by instruction."""
        return [SiteTraffic(**site) for site in self._ask("traffic")]

    def buffer_traffic(self) -> list[BufferTraffic]:
        """What the last grid moved at least, by buffer."""
        return [BufferTraffic(**buffer) for buffer in self._ask("buffer_traffic")]

    def clear_traffic(self) -> None:
        """Begins to count anew."""
        self._function("clear_traffic")()

    def launches(self) -> list[Launch]:
        """The launches since they were cleared."""
        return [
            Launch(**{**launch, "grid": tuple(launch["grid"]), "block": tuple(launch["block"])})
            for launch in self._ask("launches")
        ]

    def clear_launches(self) -> None:
        """Forgets the launches."""
        self._function("clear_launches")()

    def set_launch_hook(self, hook: Callable[..., int] | None) -> None:
        """Has ``hook`` run kernels instead of the host model, which None brings back.

        Args:
            hook: called as ``LAUNCH_HOOK`` says; a function of Python, or of another library.
        """
        is_foreign = hasattr(hook, "argtypes")
        self._hook = None if hook is None else hook if is_foreign else LAUNCH_HOOK(hook)
        self._function("set_launch_hook")(ctypes.cast(self._hook, ctypes.c_void_p))

    def set_device_count(self, count: int) -> None:
        """Gives the process that many devices, with default attributes."""
        self._function("set_device_count")(count)

    def set_device_attribute(self, device: int, attribute: str, value: int) -> None:
        """Sets one of ``ATTRIBUTES`` of a device."""
        self._function("set_device_attribute")(device, ATTRIBUTES[attribute], value)

    def set_driver_version(self, version: int) -> None:
        """As ``cudaDriverGetVersion`` gives it, 13000 for 13.0; 0: there is no driver."""
        self._function("set_driver_version")(version)

    def fail_next(self, api: str, error: str, *, after: int = 0) -> None:
        """Lets a call of a function of the CUDA API fail with one of ``ERRORS``.

        Args:
            api: such as ``cudaLaunchKernel``.
            error: such as ``cudaErrorMemoryAllocation``.
            after: how many calls of it succeed before.
        """
        for code in [0] * after + [ERRORS[error]]:
            self._function("fail_next")(api.encode(), code)

    def add_stream(self, handle: int, device: int = 0, *, capturing: bool = False) -> None:
        """Makes a stream's handle known; those of the default streams are."""
        self._function("add_stream")(ctypes.c_uint64(handle), device, int(capturing))

    def reset(self) -> None:
        """Brings everything back to how it was at first, the schedule and the hook included."""
        self.set_launch_hook(None)
        self.set_schedule("forward")
        self.count_traffic(True)
        for name in ("clear_buffers", "clear_findings", "clear_traffic", "reset_runtime"):
            self._function(name)()
