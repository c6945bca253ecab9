"""The engine's C functions and structures, through ctypes."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

from gpu_ladder.ptx.build_engine import engine_library

if TYPE_CHECKING:
    from gpu_ladder.ptx.kernel_builder import Program


class ProgramText(ctypes.Structure):
    """See engine/c_api.cpp."""

    _fields_ = (
        ("code", ctypes.c_char_p),
        ("operands", ctypes.c_char_p),
        ("branch_tables", ctypes.c_char_p),
        ("constants", ctypes.c_char_p),
        ("names", ctypes.c_char_p),
        ("code_count", ctypes.c_uint64),
        ("operand_count", ctypes.c_uint64),
        ("branch_table_count", ctypes.c_uint64),
        ("constant_count", ctypes.c_uint64),
        ("register_bytes", ctypes.c_uint64),
        ("local_bytes", ctypes.c_uint64),
    )


class LaunchText(ctypes.Structure):
    """See engine/machine.h."""

    _fields_ = (
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint64),
        ("dynamic_shared_bytes", ctypes.c_uint64),
        ("parameters", ctypes.c_void_p),
        ("parameter_bytes", ctypes.c_uint64),
        ("variables", ctypes.c_void_p),
        ("variable_bytes", ctypes.c_uint64),
        ("budget", ctypes.c_uint64),
        ("seed", ctypes.c_uint64),
        ("schedule", ctypes.c_uint32),
        ("checks", ctypes.c_uint32),
    )


class FoundText(ctypes.Structure):
    """See engine/c_api.cpp."""

    _fields_ = (
        ("kind", ctypes.c_char_p),
        ("message", ctypes.c_char_p),
        ("site", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("count", ctypes.c_uint64),
    )


class TrafficText(ctypes.Structure):
    """See engine/c_api.cpp."""

    _fields_ = (
        ("site", ctypes.c_uint32),
        ("shared", ctypes.c_uint32),
        ("write", ctypes.c_uint32),
        ("atomic", ctypes.c_uint32),
        ("access_bytes", ctypes.c_uint64),
        ("requests", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("sectors", ctypes.c_uint64),
        ("ideal_sectors", ctypes.c_uint64),
        ("wavefronts", ctypes.c_uint64),
        ("ideal_wavefronts", ctypes.c_uint64),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The engine, built if needed, with the types of its functions."""
    engine = ctypes.CDLL(str(engine_library()))
    pointer, number = ctypes.c_void_p, ctypes.c_uint64
    signatures: dict[str, tuple[object, tuple[object, ...]]] = {
        "operation": (ctypes.c_char_p, (ctypes.c_uint32,)),
        "program": (pointer, (ctypes.POINTER(ProgramText),)),
        "forget_program": (None, (pointer,)),
        "machine": (pointer, ()),
        "forget_machine": (None, (pointer,)),
        "add_buffer": (None, (pointer, ctypes.c_char_p, number, number, ctypes.c_int)),
        "run": (ctypes.c_int, (pointer, pointer, ctypes.POINTER(LaunchText), ctypes.c_char_p)),
        "executed": (number, (pointer,)),
        "finding_count": (number, (pointer,)),
        "finding": (None, (pointer, number, ctypes.POINTER(FoundText))),
        "traffic": (number, (pointer, ctypes.POINTER(TrafficText), number)),
        "buffer_traffic": (
            ctypes.c_int,
            (pointer, number, ctypes.c_char_p, ctypes.POINTER(number)),
        ),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(engine, f"gpu_ladder_ptx_{name}")
        function.restype = result
        function.argtypes = arguments
    return engine


@functools.cache
def operations() -> dict[str, int]:
    """The engine's operations and their numbers."""
    engine = library()
    result: dict[str, int] = {}
    while name := engine.gpu_ladder_ptx_operation(len(result)):
        result[name.decode()] = len(result)
    return result


class LoadedProgram:
    """A program in the engine; freed with this object."""

    def __init__(self, program: Program) -> None:
        code, operands = program.packed_code(operations())
        tables = b"".join(index.to_bytes(4, "little") for index in program.tables)
        names = "".join(program.describe(index) + "\n" for index in range(len(program.code)))
        text = ProgramText(
            code=code,
            operands=operands,
            branch_tables=tables,
            constants=program.slots.packed_constants(),
            names=names.encode(),
            code_count=len(program.code),
            operand_count=len(operands) // 4,
            branch_table_count=len(program.tables),
            constant_count=len(program.slots.constants),
            register_bytes=program.slots.size,
            local_bytes=program.local_bytes,
        )
        self._engine = library()
        self.pointer = self._engine.gpu_ladder_ptx_program(ctypes.byref(text))

    def __del__(self) -> None:
        if hasattr(self, "pointer"):
            self._engine.gpu_ladder_ptx_forget_program(self.pointer)
