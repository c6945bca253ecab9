"""The rungs of a CUDA source: on the host model with every access checked, and as PTX."""

from __future__ import annotations

import ctypes
import numbers
import struct
from collections.abc import Callable
from typing import Any

from gpu_ladder.check import cuda_source, memory
from gpu_ladder.check.job import Job
from gpu_ladder.check.launches import DescriptionError, Launch, Output, three
from gpu_ladder.check.results import Moved, RungResult
from gpu_ladder.cuda_numbers import ERRORS
from gpu_ladder.emulated import SCHEDULES, Emulated, span
from gpu_ladder.host_build import build_source
from gpu_ladder.ptx import Buffer, LaunchHook, Module

_SEED = 1
_FORMATS = {("f", 4): "<f", ("f", 8): "<d"}


def checked(job: Job) -> RungResult:
    """The source, in three orders of threads and blocks, with every access watched."""
    result = RungResult("source, checked")
    library = _Library(job, "checked")
    for order in SCHEDULES:
        for launch in library.launches():
            arguments = library.prepare(launch, order)
            library.run(result, launch, arguments, order)
            for one in library.emulated.findings():
                result.add(one.kind, launch.label, one.message, one.site, order)
            if order == SCHEDULES[0]:
                moved = [
                    Moved(launch.label, row.site, "shared" if row.shared else "global", row.write,
                          row.access_bytes, row.requests, row.bytes, row.sectors, row.ideal_sectors)
                    for row in library.emulated.traffic()
                ]  # fmt: skip
                result.hold_to_limits(launch, moved, order)
    return result


def sanitized(job: Job) -> RungResult:
    """The source under AddressSanitizer and UBSan, which end the process at what they find."""
    result = RungResult("sanitizers")
    library = _Library(job, "sanitized")
    for launch in library.launches():
        arguments = library.prepare(launch, SCHEDULES[0], room=0)
        library.run(result, launch, arguments, SCHEDULES[0])
        for one in library.emulated.findings():
            result.add(one.kind, launch.label, one.message, one.site, SCHEDULES[0])
    return result


def ptx(job: Job) -> RungResult:
    """What nvcc makes of it for one architecture, executed in three orders."""
    from gpu_ladder.static.cuda_gate import compile_source

    result = RungResult(f"PTX of sm_{job.architecture}")
    library = _Library(job, "plain")
    source = cuda_source.written(job.source, library.kernels, for_host=False)
    include = (job.source.resolve().parent, *job.include)
    compiled = compile_source(source, job.architecture, include, flags=("-lineinfo",))
    module = Module(compiled.ptx.read_text(encoding="utf-8"))
    for order in SCHEDULES:
        for launch in library.launches():
            arguments = library.prepare(launch, order)
            outputs = library.outputs(launch)
            buffers = [
                Buffer(name, *span(value), initialised=name not in outputs)
                for name, value in arguments.items()
                if memory.is_memory(value)
            ]
            hook = LaunchHook([module], order, _SEED, checks=True, buffers=buffers)
            library.emulated.set_launch_hook(hook)
            library.run(result, launch, arguments, order, hook)
            for _, report in hook.reports:
                for found in report.findings:
                    site = f"{found.file}:{found.source_line}" if found.file else ""
                    result.add(found.kind, launch.label, found.message, site, order)
                if order == SCHEDULES[0]:
                    moved = [
                        Moved(launch.label, f"{row.file}:{row.source_line}", row.space, row.write,
                              row.access_bytes, row.requests, row.bytes, row.sectors,
                              row.ideal_sectors)
                        for row in report.traffic
                    ]  # fmt: skip
                    result.hold_to_limits(launch, moved, order)
    return result


RUNGS: dict[str, Callable[[Job], RungResult]] = {
    "checked": checked,
    "ptx": ptx,
    "sanitized": sanitized,
}


class _Library:
    """The kernels of a file in one flavour, each with the function that launches it."""

    def __init__(self, job: Job, flavour: str) -> None:
        self._job = job
        self.kernels = list(dict.fromkeys(launch.kernel for launch in job.described()))
        source = cuda_source.written(job.source, self.kernels, for_host=True)
        include = (job.source.resolve().parent, *job.include)
        self.emulated = Emulated(build_source(flavour, source, include))
        self._outputs: set[str] = set()

    def launches(self) -> list[Launch]:
        """Described anew, with memory as it is at first."""
        return self._job.described()

    @staticmethod
    def outputs(launch: Launch) -> set[str]:
        """The arguments that hold nothing before the launch."""
        return {name for name, value in launch.arguments.items() if isinstance(value, Output)}

    def prepare(self, launch: Launch, order: str, room: int = memory.ROOM) -> dict[str, Any]:
        """The arguments, and a device that knows their memory and nothing else."""
        arguments = memory.materialised(launch.arguments, room)
        outputs = self.outputs(launch)
        self.emulated.reset()
        self.emulated.set_schedule(order, _SEED)
        for name, value in arguments.items():
            if memory.is_memory(value):
                self.emulated.add_buffer(name, value, initialised=name not in outputs)
        return arguments

    def run(
        self,
        result: RungResult,
        launch: Launch,
        arguments: dict[str, Any],
        order: str,
        hook: LaunchHook | None = None,
    ) -> None:
        """Launches it, and looks at what came of it."""
        if launch.label not in result.launches:
            result.launches.append(launch.label)
        packed = self._packed(launch, arguments)
        pointers = (ctypes.c_void_p * (len(packed) + 1))(*map(ctypes.addressof, packed))
        function = self._function("launch", launch)
        grid = (ctypes.c_uint * 3)(*three(launch.grid, f"the grid of {launch.label}"))
        block = (ctypes.c_uint * 3)(*three(launch.block, f"the block of {launch.label}"))
        error = function(grid, block, ctypes.c_ulonglong(launch.shared_bytes), pointers)
        if hook is not None and hook.error is not None:
            result.add("launch", launch.label, str(hook.error), "", order)
        elif error != 0 and not (self.emulated.findings() or (hook and hook.findings)):
            names = {number: name for name, number in ERRORS.items()}
            message = f"the launch gave {names.get(error, f'error {error}')}"
            result.add("launch", launch.label, message, "", order)
        if error == 0:
            result.compare(launch, arguments, order)

    def _function(self, what: str, launch: Launch) -> Any:
        index = self.kernels.index(launch.kernel)
        return getattr(self.emulated.library, f"gpu_ladder_{what}_{index}")

    def _packed(self, launch: Launch, arguments: dict[str, Any]) -> list[Any]:
        """The bytes of every argument, as its parameter has them."""
        rows = (ctypes.c_longlong * 512)()
        count = self._function("parameters", launch)(rows)
        if count != len(arguments):
            raise DescriptionError(
                f"{launch.label} takes {count} arguments, and {len(arguments)} are described: "
                f"{', '.join(arguments)}"
            )
        kinds = [(chr(rows[2 * i]), int(rows[2 * i + 1])) for i in range(count)]
        return [
            ctypes.create_string_buffer(_bytes(name, value, *kind), kind[1])
            for (name, value), kind in zip(arguments.items(), kinds, strict=True)
        ]


def _bytes(name: str, value: Any, kind: str, size: int) -> bytes:
    data: bytes | None = None
    if memory.is_memory(value):
        data = struct.pack("<Q", span(value)[0]) if kind == "p" else None
    elif isinstance(value, bytes | ctypes.Structure | ctypes.Array):
        data = bytes(value)
    elif kind == "f" and isinstance(value, numbers.Real):
        data = struct.pack(_FORMATS[kind, size], float(value))
    elif kind == "i" and isinstance(value, numbers.Integral):
        data = (int(value) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
    elif kind == "p" and value is None:
        data = bytes(size)
    if data is None or len(data) != size:
        wanted = {"p": "an array, a CPU tensor, Output or None", "f": "a number", "i": "an int"}
        raise DescriptionError(
            f"{name} is {type(value).__name__}, for a parameter of {size} bytes; accepted is "
            f"{wanted.get(kind, 'a ctypes structure or bytes of that size')}"
        )
    return data
