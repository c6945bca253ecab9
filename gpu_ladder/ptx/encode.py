"""Statements of a kernel into the instructions that the engine executes."""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from gpu_ladder.ptx import attributes as bits
from gpu_ladder.ptx.errors import PtxError, PtxNotImplementedError
from gpu_ladder.ptx.instructions import KNOWN_MISSING, ROWS
from gpu_ladder.ptx.operands import Register, Scope
from gpu_ladder.ptx.slots import LITERAL
from gpu_ladder.ptx.table import TYPE_BITS, Form, Operand, Row
from gpu_ladder.ptx.text import split_operands

_ADDRESS = re.compile(r"\[\s*([\w$%.]+)\s*(?:([+-])\s*(-?\w+)\s*)?\]")
NO_GUARD = 0xFFFFFFFF

_BY_OPCODE: dict[str, list[Row]] = {}
for _row in ROWS:
    _BY_OPCODE.setdefault(_row.opcode, []).append(_row)


@dataclass
class Encoded:
    """One instruction; `target` may be a label until all of them are known."""

    engine: str
    line: int
    operands: list[int] = field(default_factory=list)
    attributes: int = 0
    immediate: int = 0
    target: int | tuple[Scope | None, str] = 0  # a label, or without a scope a function
    guard: int = NO_GUARD
    guard_flip: int = 0
    location: tuple[int, int] | None = None

    def pack(self, operation: int, first_operand: int) -> bytes:
        """The engine's form of it."""
        if not isinstance(self.target, int):
            raise TypeError("a label was left open")
        return struct.pack(
            "<QIIIIIIII",
            self.immediate & (2**64 - 1),
            operation,
            self.attributes,
            self.guard,
            self.guard_flip,
            self.target,
            self.line,
            first_operand,
            len(self.operands),
        )


@functools.cache
def _forms(name: str) -> tuple[Form, ...]:
    opcode, *modifiers = name.split(".")
    rows = _BY_OPCODE[opcode]
    return tuple(form for row in rows if (form := row.match(tuple(modifiers))))


def select_form(name: str, arguments: list[str], line: int) -> Form:
    """The row of the table, and the choices in it, for an instruction.

    Raises:
        PtxError: If there is none.
    """
    if name.startswith(KNOWN_MISSING):
        raise PtxNotImplementedError(name, line)
    opcode = name.split(".")[0]
    if opcode not in _BY_OPCODE:
        raise PtxError(f"unknown instruction {name!r}", line)
    forms = _forms(name)
    if not forms:
        raise PtxError(f"no form of {opcode!r} has the modifiers of {name!r}", line)
    for form in forms:
        if _shape_fits(form, arguments):
            return form
    accepted = " or ".join(repr(form.row.arguments) for form in forms)
    raise PtxError(
        f"{name}: operands {', '.join(arguments)!r} do not fit; it takes {accepted}", line
    )


def _shape_fits(form: Form, arguments: list[str]) -> bool:
    expected = [operand for operand in form.row.operands if operand.kind != "sink"]
    given = list(arguments)
    if "L2::cache_hint" in form.chosen:
        if not given or given[-1].startswith(("[", "{")):
            return False
        given.pop()
    if len(expected) != len(given):
        return False
    for operand, text in zip(expected, given, strict=True):
        if (operand.kind == "address") != text.startswith("["):
            return False
        if operand.kind != "register":
            continue
        # Triton writes the single register of a load or store in braces.
        in_braces = text.startswith("{")
        if in_braces and not operand.length and form.row.encode != "memory":
            return False
        if operand.length and not in_braces:
            return False
        if in_braces and len(split_operands(text.strip("{} "))) != (form.length_of(operand) or 1):
            return False
    return True


class Encoder:
    """Encodes the instructions of one function into `code`."""

    def __init__(self, scope: Scope, emit: Callable[[Encoded], None]) -> None:
        self.scope = scope
        self.emit = emit

    def instruction(self, text: str, line: int, location: tuple[int, int] | None) -> None:
        """Encodes one instruction and hands it to `emit`.

        Raises:
            PtxError: If the table does not allow it.
        """
        found = re.fullmatch(r"(?:@(!?)\s*([\w$%]+)\s+)?([\w.:]+)\s*(.*)", text)
        if not found:
            raise PtxError(f"cannot read {text[:80]!r}", line)
        encoded = Encoded("", line, location=location)
        if found[2]:
            encoded.guard = self.scope.register(found[2], line, "pred").slot
            encoded.guard_flip = 0xFFFFFFFF if found[1] else 0
        arguments = split_operands(found[4])
        form = select_form(found[3], arguments, line)
        row = form.row
        family = bits.FAMILIES[row.family]
        encoded.attributes = row.attributes
        for slot, choice in zip(row.slots, form.chosen, strict=True):
            if not slot.hint and choice not in TYPE_BITS:
                encoded.attributes |= family.get(choice, 0)
        if "L2::cache_hint" in form.chosen:
            self.scope.source(arguments.pop(), "b64", line)
        getattr(self, f"_{row.encode}")(encoded, form, arguments)
        encoded.engine = encoded.engine or row.engine.format(**form.captures)
        self.emit(encoded)

    def _common(self, encoded: Encoded, form: Form, arguments: list[str]) -> list[Register]:
        """Flattens the operands in the order in which they are written."""
        left = list(arguments)
        registers: list[Register] = []
        for operand in form.row.operands:
            if operand.kind == "sink":
                size = 64 if form.captures.get("T_bits") == "64" else 32
                size = int(form.captures.get("T_bits", size))
                is_first = operand is form.row.operands[0]
                encoded.operands.append(self.scope.slots.sink(size if is_first else 1))
                continue
            text = left.pop(0)
            if operand.kind == "address":
                self._address(encoded, text)
            elif operand.kind == "immediate":
                encoded.immediate = self.scope.integer(text, encoded.line)
            elif operand.kind == "target":
                encoded.target = self.scope.integer(text, encoded.line)
            else:
                registers += self._registers(encoded, form, operand, text)
        return registers

    def _registers(
        self, encoded: Encoded, form: Form, operand: Operand, text: str
    ) -> list[Register]:
        scope, line = self.scope, encoded.line
        kind = form.type_of(operand)
        if operand.length or text.startswith("{"):
            parts = split_operands(text.strip("{} "))
        elif operand.paired:
            parts = [part.strip() for part in text.split("|")]
        else:
            parts = [text]
        if operand.negatable and parts[0].startswith("!"):
            encoded.attributes |= bits.NEGATED
            parts = [parts[0][1:].strip()]
        result: list[Register] = []
        if operand.destination:
            own = parts[:1] if operand.paired else parts
            known = [
                scope.destination(part, kind, line, operand.wider) for part in own if part != "_"
            ]
            width = known[0].bits if known else max(16, TYPE_BITS[kind])
            queue = list(known)
            for index, part in enumerate(parts):
                if operand.paired and index == 1:
                    result.append(scope.destination(part, "pred", line))
                elif part == "_":
                    result.append(Register(scope.slots.sink(width), width))
                else:
                    result.append(queue.pop(0))
            if operand.paired and len(parts) == 1:
                result.append(Register(scope.slots.sink(1), 1))
        else:
            result = [scope.source(part, kind, line, operand.wider) for part in parts]
        encoded.operands += [register.slot for register in result]
        return result

    def _address(self, encoded: Encoded, text: str) -> None:
        found = _ADDRESS.fullmatch(text)
        if not found:
            raise PtxError(f"cannot read the address {text!r}", encoded.line)
        offset = 0
        if found[3]:
            offset = self.scope.integer(found[3], encoded.line)
            offset = -offset if found[2] == "-" else offset
        base, space = self.scope.address(found[1], encoded.line)
        if base.bits == 32:
            encoded.attributes |= bits.ADDRESS32
        if space is not None and (encoded.attributes & bits.SPACE_MASK) == bits.SPACE_PARAMETER:
            encoded.attributes = encoded.attributes & ~bits.SPACE_MASK | space
        encoded.operands.append(base.slot)
        encoded.immediate = offset

    def _memory(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        registers = self._common(encoded, form, arguments)
        widths = {register.bits for register in registers}
        if len(widths) != 1:
            raise PtxError("the registers of a vector have different widths", encoded.line)
        encoded.engine = form.row.engine.format(width=widths.pop(), **form.captures)

    def _integers(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        registers = self._common(encoded, form, arguments)
        encoded.attributes |= (registers[0].bits // 8).bit_length() - 1 << bits.WIDTH_SHIFT
        encoded.immediate = registers[1].bits // 8

    def _wide(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        registers = self._common(encoded, form, arguments)
        encoded.attributes |= (registers[0].bits // 8).bit_length() - 1 << bits.WIDTH_SHIFT

    def _set(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        self._common(encoded, form, arguments)
        encoded.engine = form.row.engine.format(**form.captures).replace("set.s32", "set.u32")

    def _fence(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        encoded.attributes = 0

    def _hint(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        self._common(encoded, form, arguments)

    def _policy(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        self._common(encoded, form, arguments)
        encoded.operands = [encoded.operands[0], self.scope.slots.constant(LITERAL, 0, 64)]

    def _copy(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        self._address(encoded, arguments[0])
        target_offset = encoded.immediate
        target_narrow = encoded.attributes & bits.ADDRESS32
        encoded.attributes &= ~bits.ADDRESS32
        self._address(encoded, arguments[1])
        if encoded.attributes & bits.ADDRESS32:
            raise PtxError("the source of cp.async is a global address of 64 bits", encoded.line)
        encoded.attributes |= target_narrow
        encoded.immediate = (encoded.immediate & 0xFFFFFFFF) << 32 | target_offset & 0xFFFFFFFF
        size = self.scope.integer(arguments[2], encoded.line)
        sizes = (16,) if form.text.startswith("cp.async.cg") else (4, 8, 16)
        if size not in sizes:
            raise PtxError(f"{form.text} copies {sizes} bytes, not {size}", encoded.line)
        encoded.target = size
        if len(arguments) == 4:
            source = self.scope.source(arguments[3], "u32", encoded.line)
            encoded.operands.append(source.slot)

    def _barrier(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        slots = self.scope.slots
        left = list(arguments)
        result = slots.sink(32)
        predicate = slots.constant(LITERAL, 1, 1)
        if ".red." in form.text:
            kind = "u32" if "popc" in form.chosen or ".popc." in form.text else "pred"
            result = self.scope.destination(left.pop(0), kind, encoded.line).slot
            text = left.pop()
            if text.startswith("!"):
                encoded.attributes |= bits.NEGATED
                text = text[1:].strip()
            predicate = self.scope.source(text, "pred", encoded.line).slot
        numbers = [self.scope.source(text, "u32", encoded.line).slot for text in left]
        numbers += [slots.constant(LITERAL, 0, 32)] * (2 - len(numbers))
        encoded.operands = [result, *numbers, predicate]

    def _branch(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        encoded.target = (self.scope, arguments[0])

    def _branch_indexed(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        encoded.operands = [self.scope.source(arguments[0], "u32", encoded.line).slot]
        encoded.target = (self.scope, arguments[1])

    def _leave(self, encoded: Encoded, form: Form, arguments: list[str]) -> None:
        if self.scope.return_slot is None:
            encoded.engine = "exit"
        else:
            encoded.operands = [self.scope.return_slot]
