"""Names in a kernel: registers, variables, labels, and what an operand's text stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from gpu_ladder.ptx import attributes as bits
from gpu_ladder.ptx.errors import PtxError
from gpu_ladder.ptx.slots import (
    LITERAL,
    PARAMETER,
    SPECIAL,
    SPECIAL_REGISTERS,
    VARIABLE,
    Slots,
)
from gpu_ladder.ptx.syntax import Variable, parse_literal
from gpu_ladder.ptx.table import TYPE_BITS


@dataclass(frozen=True)
class Register:
    """A slot and its width; 1 for a predicate."""

    slot: int
    bits: int


@dataclass
class Scope:
    """The names between a pair of braces; what is not here is in `outer`.

    Args:
        slots: Of the whole kernel.
        outer: The scope around this one.
        return_slot: Where a function keeps the place to return to; None in a kernel.
    """

    slots: Slots
    outer: Scope | None = None
    return_slot: int | None = None
    registers: dict[str, Register] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, list[str]] = field(default_factory=dict)

    def inner(self) -> Scope:
        """A scope inside of this one."""
        return Scope(self.slots, self, self.return_slot)

    def declare(self, text: str, line: int) -> None:
        """Takes in a ``.reg`` declaration."""
        found = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text)
        width = TYPE_BITS.get(found[1]) if found else None
        if not found or width is None or width == 8:
            raise PtxError(f"cannot read the registers {text[:80]!r}", line)
        for name in found[2].split(","):
            many = re.fullmatch(r"\s*([\w$%]+)\s*(?:<(\d+)>)?\s*", name)
            if not many:
                raise PtxError(f"cannot read the registers {text[:80]!r}", line)
            names = [f"{many[1]}{n}" for n in range(int(many[2]))] if many[2] else [many[1]]
            for one in names:
                # Slots are handed out when a register is first used: compilers declare too many.
                self.registers[one] = Register(-1, width)

    def _find_register(self, name: str) -> Register | None:
        scope: Scope | None = self
        while scope is not None:
            register = scope.registers.get(name)
            if register is not None:
                if register.slot < 0:
                    register = Register(self.slots.register(register.bits), register.bits)
                    scope.registers[name] = register
                return register
            scope = scope.outer
        return None

    def variable(self, name: str) -> Variable | None:
        """The variable of this name, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.variables:
                return scope.variables[name]
            scope = scope.outer
        return None

    def label(self, name: str) -> int | None:
        """The index of the instruction after a label, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.labels:
                return scope.labels[name]
            scope = scope.outer
        return None

    def table(self, name: str) -> list[str] | None:
        """The labels of a branch table, or None."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.tables:
                return scope.tables[name]
            scope = scope.outer
        return None

    def register(self, name: str, line: int, kind: str, wider: bool = False) -> Register:
        """The register of this name, whose width must be that of the type.

        Raises:
            PtxError: If there is none, or its width is another.
        """
        register = self._find_register(name)
        if register is None:
            raise PtxError(f"unknown register {name!r}", line)
        wanted = TYPE_BITS[kind]
        if register.bits != wanted and not (
            wider and register.bits > max(wanted, 1) and wanted > 1
        ):
            raise PtxError(f"{name} has {register.bits} bits, but {kind} is wanted", line)
        return register

    def destination(self, text: str, kind: str, line: int, wider: bool = False) -> Register:
        """A register to be written; ``_`` is one that nobody reads."""
        if text == "_":
            width = max(16, TYPE_BITS[kind]) if kind != "pred" else 1
            return Register(self.slots.sink(width), width)
        return self.register(text, line, kind, wider)

    def source(self, text: str, kind: str, line: int, wider: bool = False) -> Register:
        """A register, special register, literal, or the address of a variable."""
        if self._find_register(text) is not None:
            return self.register(text, line, kind, wider)
        width = TYPE_BITS[kind] if kind == "pred" else max(16, TYPE_BITS[kind])
        if text.startswith("%"):
            special = SPECIAL_REGISTERS.get(text)
            if special is None:
                raise PtxError(f"unknown register {text!r}", line)
            if special[1] != width and not wider:
                raise PtxError(f"{text} has {special[1]} bits, but {kind} is wanted", line)
            return Register(self.slots.constant(SPECIAL, special[0], special[1]), special[1])
        if text == "WARP_SZ":
            return Register(self.slots.constant(LITERAL, 32, width), width)
        symbol = re.fullmatch(r"([A-Za-z_$][\w$]*)(?:\s*\+\s*(\d+))?", text)
        if symbol and (variable := self.variable(symbol[1])) is not None:
            return self._variable_address(variable, int(symbol[2] or 0), width)
        value = parse_literal(text, kind, line)
        if kind.startswith("s") and TYPE_BITS[kind] == 8 and value & 0x80:
            value |= 0xFF00
        return Register(self.slots.constant(LITERAL, value, width), width)

    def address(self, text: str, line: int) -> tuple[Register, int | None]:
        """The base of an address, and the space of a parameter that lies elsewhere."""
        register = self._find_register(text)
        if register is not None:
            if register.bits not in (32, 64):
                raise PtxError(f"{text} of {register.bits} bits is no address", line)
            return register, None
        variable = self.variable(text)
        if variable is not None:
            space = bits.SPACE_LOCAL if variable.space == "call" else None
            return self._variable_address(variable, 0, 64), space
        if re.fullmatch(r"\d+|0[xX][0-9a-fA-F]+", text):
            value = parse_literal(text, "u64", line)
            return Register(self.slots.constant(LITERAL, value, 64), 64), None
        raise PtxError(f"unknown register or variable {text!r}", line)

    def _variable_address(self, variable: Variable, offset: int, width: int) -> Register:
        source = {"param": PARAMETER, "global": VARIABLE, "const": VARIABLE}.get(
            variable.space, LITERAL
        )
        return Register(self.slots.constant(source, variable.offset + offset, width), width)

    def integer(self, text: str, line: int) -> int:
        """A whole number that must be known here."""
        value = parse_literal(text, "s64", line)
        return value - (1 << 64) if value >> 63 else value
