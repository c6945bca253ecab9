"""PTX modules and their kernels, executed on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

from gpu_ladder.ptx import engine
from gpu_ladder.ptx.arguments import Buffer, pack
from gpu_ladder.ptx.kernel_builder import KernelBuilder, Program
from gpu_ladder.ptx.report import BufferTraffic, Finding, Report, Traffic
from gpu_ladder.ptx.syntax import parse
from gpu_ladder.ptx.variables import VariableMemory

_SCHEDULES = {"forward": 0, "reverse": 1, "random": 2}
_OUTCOMES = ("finished", "stuck", "budget_spent", "trapped")
_DEFAULT_BUDGET = 500_000_000


class Module:
    """PTX text, parsed; whatever the machine does not know is an error at once.

    Args:
        text: What nvcc or Triton emitted.
        entries: Names of the kernels wanted; all of them by default.

    Attributes:
        kernels: The kernels by their mangled names.
        target: The architecture it was compiled for, as ``sm_90a``.

    Raises:
        PtxError: With the line, for anything that is not in the table of instructions.

    Example:
        >>> module = Module(ptx_text)
        >>> kernel = module.kernels["scale"]
        >>> report = kernel.launch((4, 1, 1), (128, 1, 1), [array, ctypes.c_int(512)])
        >>> report.raise_on_findings()
    """

    def __init__(self, text: str, entries: Sequence[str] | None = None) -> None:
        source = parse(text)
        self.target = source.target
        self._variables = VariableMemory(
            [one for one in source.variables.values() if one.space in ("global", "const")]
        )
        names = [name for name, one in source.functions.items() if one.is_entry and one.has_body]
        missing = set(entries or ()) - set(names)
        if missing:
            raise KeyError(f"no kernel {sorted(missing)}; the module has {sorted(names)}")
        self.kernels = {
            name: Kernel(KernelBuilder(source, source.functions[name]).build(), self._variables)
            for name in names
            if entries is None or name in entries
        }

    def reset_variables(self) -> None:
        """Gives the module's ``__device__`` and ``__constant__`` variables their first values."""
        self._variables.reset()

    def variable(self, name: str) -> memoryview:
        """The memory of a ``__device__`` or ``__constant__`` variable, by its mangled name."""
        return self._variables.view(name)


class Kernel:
    """One entry of a module.

    Attributes:
        name: Its mangled name.
        params: Its parameters, with their sizes and offsets.
        static_shared_bytes: Shared memory that it declares itself.
    """

    def __init__(self, program: Program, variables: VariableMemory) -> None:
        self.name = program.name
        self.params = program.params
        self.static_shared_bytes = program.static_shared_bytes
        self._program = program
        self._variables = variables
        self._loaded = engine.LoadedProgram(program)

    def launch(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        arguments: Sequence[Any],
        shared_bytes: int = 0,
        order: str = "forward",
        seed: int = 0,
        buffers: Sequence[Buffer] | None = None,
        checks: bool = True,
        budget: int = _DEFAULT_BUDGET,
    ) -> Report:
        """Executes the kernel.

        Args:
            grid: Number of blocks, up to three dimensions.
            block: Number of threads, up to three dimensions.
            arguments: One for each parameter: a numpy array or torch tensor (its address), a ctypes
                object, bytes, an int or a float.
            shared_bytes: Dynamic shared memory.
            order: ``forward``, ``reverse`` or ``random``: of blocks, of the warps of a block, and
                of lanes in atomics.
            seed: Of the random order.
            buffers: Global memory that may be touched; by default the arrays among the arguments,
                all of them initialised.
            checks: Whether to look for races and bad accesses, and to count traffic.
            budget: Warp instructions after which the launch is given up.

        Returns:
            What was found and moved.

        Raises:
            ValueError: For arguments or a launch that do not fit the kernel.
        """
        if len(arguments) != len(self.params):
            raise ValueError(
                f"{self.name} takes {len(self.params)} arguments, {len(arguments)} were given"
            )
        data = bytearray(self._program.parameter_bytes)
        found: list[Buffer] = []
        for index, (param, argument) in enumerate(zip(self.params, arguments, strict=True)):
            packed, buffer = pack(argument, param, f"argument {index}")
            data[param.offset : param.offset + param.size] = packed
            if buffer is not None:
                found.append(buffer)
        return self._run(
            bytes(data),
            grid,
            block,
            shared_bytes,
            order,
            seed,
            found if buffers is None else buffers,
            checks,
            budget,
        )

    def launch_raw(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        arguments_pointer: int,
        shared_bytes: int = 0,
        order: str = "forward",
        seed: int = 0,
        buffers: Sequence[Buffer] = (),
        checks: bool = False,
        budget: int = _DEFAULT_BUDGET,
    ) -> Report:
        """Executes the kernel with the ``void** args`` of ``cudaLaunchKernel``.

        Args:
            grid: Number of blocks.
            block: Number of threads.
            arguments_pointer: Address of the array of pointers to arguments; their sizes are the
                parameters'.
            shared_bytes: Dynamic shared memory.
            order: See `launch`.
            seed: See `launch`.
            buffers: With checks, all global memory that may be touched.
            checks: See `launch`.
            budget: See `launch`.
        """
        data = bytearray(self._program.parameter_bytes)
        pointers = (
            (ctypes.c_void_p * len(self.params)).from_address(arguments_pointer or 0)
            if (self.params)
            else ()
        )
        for param, pointer in zip(self.params, pointers, strict=True):
            data[param.offset : param.offset + param.size] = ctypes.string_at(pointer, param.size)
        return self._run(
            bytes(data), grid, block, shared_bytes, order, seed, buffers, checks, budget
        )

    def _run(
        self,
        parameters: bytes,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        order: str,
        seed: int,
        buffers: Sequence[Buffer],
        checks: bool,
        budget: int,
    ) -> Report:
        if order not in _SCHEDULES:
            raise ValueError(f"order {order!r}; accepted are {', '.join(_SCHEDULES)}")
        grid, block = _three(grid, "grid"), _three(block, "block")
        self._check_block(block)
        memory = ctypes.create_string_buffer(parameters, max(len(parameters), 1) + 16)
        program = self._program
        launch = engine.LaunchText(
            grid=(ctypes.c_uint32 * 3)(*grid),
            block=(ctypes.c_uint32 * 3)(*block),
            shared_bytes=program.dynamic_shared_offset + shared_bytes,
            dynamic_shared_bytes=shared_bytes,
            parameters=ctypes.addressof(memory),
            parameter_bytes=len(parameters),
            variables=self._variables.address,
            variable_bytes=self._variables.bytes,
            budget=budget,
            seed=seed,
            schedule=_SCHEDULES[order],
            checks=int(checks),
        )
        library = engine.library()
        machine = library.gpu_ladder_ptx_machine()
        try:
            for buffer in (*buffers, *self._variables.buffers()):
                library.gpu_ladder_ptx_add_buffer(
                    machine,
                    buffer.name.encode(),
                    buffer.address,
                    buffer.bytes,
                    int(buffer.initialised),
                )
            error = ctypes.create_string_buffer(256)
            outcome = library.gpu_ladder_ptx_run(
                machine, self._loaded.pointer, ctypes.byref(launch), error
            )
            if outcome < 0:
                raise RuntimeError(f"the PTX machine failed: {error.value.decode()}")
            return self._report(library, machine, _OUTCOMES[outcome], checks)
        finally:
            library.gpu_ladder_ptx_forget_machine(machine)

    def _check_block(self, block: tuple[int, int, int]) -> None:
        threads = block[0] * block[1] * block[2]
        if threads > 1024:
            raise ValueError(f"a block of {threads} threads; no more than 1024 are possible")
        for name, exact in (("reqntid", True), ("maxntid", False)):
            bound = self._program.bounds.get(name)
            if not bound:
                continue
            wanted = (*bound, 1, 1)[:3]
            limit = wanted[0] * wanted[1] * wanted[2]
            if (exact and block != wanted) or threads > limit:
                raise ValueError(
                    f"a block of {block}; the kernel was compiled with .{name} {bound}"
                )

    def _report(self, library: ctypes.CDLL, machine: int, outcome: str, checks: bool) -> Report:
        findings = []
        executed = int(library.gpu_ladder_ptx_executed(machine))
        text = engine.FoundText()
        for index in range(library.gpu_ladder_ptx_finding_count(machine)):
            library.gpu_ladder_ptx_finding(machine, index, ctypes.byref(text))
            file, source_line = self._program.location(text.site // 2)
            findings.append(
                Finding(
                    text.kind.decode(),
                    text.message.decode(),
                    self._program.code[text.site // 2].line,
                    file,
                    source_line,
                    text.count,
                )
            )
        if not checks:
            return Report(outcome, tuple(findings), instructions=executed)
        count = library.gpu_ladder_ptx_traffic(machine, None, 0)
        rows = (engine.TrafficText * count)()
        library.gpu_ladder_ptx_traffic(machine, rows, count)
        traffic = [self._traffic(row) for row in rows]
        buffers: list[BufferTraffic] = []
        name = ctypes.create_string_buffer(256)
        numbers = (ctypes.c_uint64 * 3)()
        while library.gpu_ladder_ptx_buffer_traffic(machine, len(buffers), name, numbers):
            buffers.append(BufferTraffic(name.value.decode(), *numbers))
        return Report(outcome, tuple(findings), tuple(traffic), tuple(buffers), executed)

    def _traffic(self, row: engine.TrafficText) -> Traffic:
        file, source_line = self._program.location(row.site // 2)
        return Traffic(
            line=self._program.code[row.site // 2].line,
            file=file,
            source_line=source_line,
            space="shared" if row.shared else "global",
            write=bool(row.write),
            atomic=bool(row.atomic),
            access_bytes=row.access_bytes,
            requests=row.requests,
            bytes=row.bytes,
            sectors=row.sectors,
            ideal_sectors=row.ideal_sectors,
            wavefronts=row.wavefronts,
            ideal_wavefronts=row.ideal_wavefronts,
        )


def _three(sizes: Sequence[int], what: str) -> tuple[int, int, int]:
    if not 1 <= len(sizes) <= 3 or any(size < 1 for size in sizes):
        raise ValueError(f"{what} {tuple(sizes)}; one to three sizes of at least 1 are accepted")
    x, y, z = (*sizes, 1, 1)[:3]
    return int(x), int(y), int(z)
