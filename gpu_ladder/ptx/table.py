"""The language in which the table of instructions is written.

A row names one form of an instruction as the PTX manual does, and its operands::

    Row("add[.{rn|rz|rm|rp}][.ftz][.sat].f32", ">f32 f32 f32", "add.f32")

Modifiers: ``.x`` is required, ``[.x]`` optional, ``.{a|b}`` one of several, ``.{T:a|b}`` one of
several that the operands and the engine's operation name as ``{T}``. ``[~.{a|b}]`` is a hint that
changes no result, only speed; everything else must set attributes, be a type, or be named.

Operands, separated by blanks:

=============  ===========================================================================
``>f32``       destination register; ``>f32|p`` with an optional second, a predicate
``f32``        source: register, immediate, special register or address of a variable
``!pred``      source predicate that may be negated
``>4*b32``     destination vector; ``4*b32`` source vector
``@``          address ``[register + offset]``
``#``          immediate integer; ``#target`` kept apart from the first
``_``          not written in the text: a place for a result that nobody wants
``f32+``       the register may be wider than the type
``L``          label
=============  ===========================================================================
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

TYPE_BITS: dict[str, int] = {
    **{f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)},
    "f16": 16,
    "bf16": 16,
    "f32": 32,
    "f64": 64,
    "tf32": 32,
    "f16x2": 32,
    "bf16x2": 32,
    "u16x2": 32,
    "s16x2": 32,
    "f32x2": 64,
    "pred": 1,
}

_SLOT = re.compile(r"\[(~?)\.(\{[^}]*\}|[\w:.]+)\]|\.(\{[^}]*\}|[\w:]+)")
_OPERAND = re.compile(r"(>?)(!?)(?:(\w+)\*)?(\w+)(\+?)(\|p)?")


@dataclass(frozen=True)
class Slot:
    """One place for a modifier."""

    choices: tuple[str, ...]
    name: str
    optional: bool
    hint: bool


@dataclass(frozen=True)
class Operand:
    """One operand; `kind` is register, address, immediate, target, sink or label."""

    kind: str
    type: str = ""
    destination: bool = False
    negatable: bool = False
    length: str = ""
    wider: bool = False
    paired: bool = False


def _slots(text: str) -> tuple[Slot, ...]:
    slots = []
    position = 0
    while position < len(text):
        found = _SLOT.match(text, position)
        if not found:
            raise ValueError(f"instruction table: cannot read {text[position:]!r} in {text!r}")
        position = found.end()
        body = found[2] or found[3]
        name = ""
        if body.startswith("{"):
            body = body[1:-1]
            if re.match(r"[A-Z]+:(?!:)", body):
                name, body = body.split(":", 1)
        choices = tuple(body.split("|"))
        slots.append(Slot(choices, name, found[2] is not None, found[1] == "~"))
    return tuple(slots)


def _operand(text: str) -> Operand:
    simple = {"@": "address", "#": "immediate", "#target": "target", "_": "sink", "L": "label"}
    if text in simple:
        return Operand(simple[text])
    found = _OPERAND.fullmatch(re.sub(r"\{(\w+)\}", r"\1", text))
    if not found:
        raise ValueError(f"instruction table: cannot read operand {text!r}")
    return Operand(
        "register",
        type=found[4],
        destination=bool(found[1]),
        negatable=bool(found[2]),
        length=found[3] or "",
        wider=bool(found[5]),
        paired=bool(found[6]),
    )


@dataclass(frozen=True)
class Form:
    """A row with one choice made in every slot."""

    row: Row
    chosen: tuple[str, ...]

    @functools.cached_property
    def text(self) -> str:
        """The instruction's name as in PTX, without operands."""
        return ".".join((self.row.opcode, *(choice for choice in self.chosen if choice)))

    @functools.cached_property
    def captures(self) -> dict[str, str]:
        """The named choices, with the names derived from types: see `derived`."""
        result: dict[str, str] = {}
        for slot, choice in zip(self.row.slots, self.chosen, strict=True):
            if slot.name:
                result[slot.name] = choice
                result.update(derived(slot.name, choice))
        return result

    def type_of(self, operand: Operand) -> str:
        """The operand's type in this form."""
        return self.captures.get(operand.type, operand.type)

    def length_of(self, operand: Operand) -> int:
        """The number of registers of a vector operand; 0 for a scalar."""
        if not operand.length:
            return 0
        return int(self.captures.get(operand.length, operand.length).lstrip("vx") or 0)


def derived(name: str, choice: str) -> dict[str, str]:
    """Names that follow from a type: ``T_bits``, ``T_wide``, ``T_load`` and their like."""
    if choice not in TYPE_BITS:
        return {}
    bits = TYPE_BITS[choice]
    kind = choice.rstrip("0123456789")
    return {
        f"{name}_bits": str(bits),
        f"{name}_wide": f"{kind}{2 * bits}",
        f"{name}_load": f"{'s' if kind == 's' and bits < 64 else 'u'}{bits}",
        f"{name}_logic": f"{'s' if kind == 's' else 'b'}{bits}",
        f"{name}_plain": f"b{bits}",
        f"{name}_number": f"u{bits}" if kind == "b" else choice,
    }


@dataclass(frozen=True)
class Row:
    """One form of an instruction.

    Args:
        syntax: The instruction and its modifiers.
        arguments: Its operands.
        engine: The engine's operation, with captured choices in braces.
        since: The first compute capability that has it, as in ``sm_90``; ``100a`` where the
            architecture-specific target is needed.
        attributes: Bits that every form has, beside those of its modifiers.
        family: Which attributes the modifiers have: ``number`` or ``memory``.
        encode: Which of the encoder's methods writes it, if not the common one.
        excluded: Pairs of modifiers that do not go together.
    """

    syntax: str
    arguments: str
    engine: str
    since: str = "80"
    attributes: int = 0
    family: str = "number"
    encode: str = "common"
    excluded: tuple[tuple[str, str], ...] = ()
    opcode: str = field(init=False)
    slots: tuple[Slot, ...] = field(init=False)
    operands: tuple[Operand, ...] = field(init=False)

    def __post_init__(self) -> None:
        opcode = re.match(r"\w+", self.syntax)
        if not opcode:
            raise ValueError(f"instruction table: no opcode in {self.syntax!r}")
        object.__setattr__(self, "opcode", opcode[0])
        object.__setattr__(self, "slots", _slots(self.syntax[opcode.end() :]))
        operands = tuple(_operand(text) for text in self.arguments.split())
        object.__setattr__(self, "operands", operands)

    def match(self, modifiers: tuple[str, ...]) -> Form | None:
        """The form that these modifiers select, or None."""
        chosen = self._match(0, modifiers)
        if chosen is None or not self.allows(chosen):
            return None
        return Form(self, chosen)

    def _match(self, slot: int, left: tuple[str, ...]) -> tuple[str, ...] | None:
        if slot == len(self.slots):
            return None if left else ()
        for choice in self.slots[slot].choices:
            parts = tuple(choice.split("."))
            if left[: len(parts)] == parts:
                rest = self._match(slot + 1, left[len(parts) :])
                if rest is not None:
                    return (choice, *rest)
        if self.slots[slot].optional:
            rest = self._match(slot + 1, left)
            if rest is not None:
                return ("", *rest)
        return None

    def allows(self, chosen: tuple[str, ...]) -> bool:
        """Whether no two of these modifiers exclude one another."""
        return not any(one in chosen and other in chosen for one, other in self.excluded)

    def forms(self) -> Iterator[Form]:
        """Every form of the row; hints are varied one at a time, the rest in all combinations."""
        base = [
            ("",) if slot.hint else (("", *slot.choices) if slot.optional else slot.choices)
            for slot in self.slots
        ]
        first = None
        for chosen in itertools.product(*base):
            if self.allows(chosen):
                first = first or chosen
                yield Form(self, chosen)
        for index, slot in enumerate(self.slots):
            if slot.hint and first:
                for choice in slot.choices:
                    chosen = (*first[:index], choice, *first[index + 1 :])
                    if self.allows(chosen):
                        yield Form(self, chosen)
