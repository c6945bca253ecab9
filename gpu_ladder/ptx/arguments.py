"""Arguments of a kernel into the bytes of its parameters."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from typing import Any

from gpu_ladder.ptx.syntax import Variable


@dataclass(frozen=True)
class Buffer:
    """Global memory that a kernel may touch.

    Args:
        name: What messages call it.
        address: Where it begins.
        bytes: Its size.
        initialised: Whether all of it holds values already.
    """

    name: str
    address: int
    bytes: int
    initialised: bool = True


def pack(argument: Any, param: Variable, name: str) -> tuple[bytes, Buffer | None]:
    """The bytes of an argument, and the buffer behind it if it is an array."""
    buffer = None
    if hasattr(argument, "data_ptr"):
        size = argument.untyped_storage().nbytes()
        start = argument.untyped_storage().data_ptr()
        buffer = Buffer(name, start, size) if size else None
        data = struct.pack("<Q", argument.data_ptr())
    elif hasattr(argument, "__array_interface__"):
        data = struct.pack("<Q", argument.ctypes.data)
        buffer = Buffer(name, argument.ctypes.data, argument.nbytes) if argument.nbytes else None
    elif isinstance(
        argument, (bytes, bytearray, ctypes._SimpleCData, ctypes.Structure, ctypes.Array)
    ):
        data = bytes(argument)
    elif isinstance(argument, float) and param.kind in ("f32", "f64"):
        data = struct.pack("<f" if param.kind == "f32" else "<d", argument)
    elif isinstance(argument, int) and param.kind not in ("f32", "f64"):
        data = (argument & ((1 << 8 * param.size) - 1)).to_bytes(param.size, "little")
    else:
        raise ValueError(
            f"{name}: {type(argument).__name__} for a parameter of type {param.kind}; accepted are "
            "numpy arrays, torch tensors, ctypes objects, bytes, and int or float where it fits"
        )
    if len(data) != param.size:
        raise ValueError(f"{name}: {len(data)} bytes for a parameter of {param.size}")
    return data, buffer
