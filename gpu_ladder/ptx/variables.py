"""The ``__device__`` and ``__constant__`` variables of a module."""

from __future__ import annotations

import ctypes

from gpu_ladder.ptx.arguments import Buffer
from gpu_ladder.ptx.syntax import Variable, align


class VariableMemory:
    """Variables of the module in one piece of memory; they keep their values between launches."""

    def __init__(self, variables: list[Variable]) -> None:
        self.variables = variables
        size = 0
        for variable in variables:
            variable.offset = align(size, max(variable.alignment, 16))
            size = variable.offset + variable.size
        self.bytes = size
        self._storage = ctypes.create_string_buffer(size + 256)
        self.address = align(ctypes.addressof(self._storage), 256)
        self.reset()

    def reset(self) -> None:
        """Gives every variable its first value."""
        for variable in self.variables:
            data = variable.initial.ljust(variable.size, b"\0")
            ctypes.memmove(self.address + variable.offset, data, variable.size)

    def view(self, name: str) -> memoryview:
        """The memory of one variable."""
        for variable in self.variables:
            if variable.name == name:
                kind = ctypes.c_ubyte * variable.size
                return memoryview(kind.from_address(self.address + variable.offset)).cast("B")
        raise KeyError(f"no variable {name!r}; there are {[one.name for one in self.variables]}")

    def buffers(self) -> list[Buffer]:
        """The variables as memory that kernels may touch."""
        return [
            Buffer(one.name, self.address + one.offset, one.size)
            for one in self.variables
            if one.size
        ]
