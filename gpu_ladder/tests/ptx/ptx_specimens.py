"""One instruction for each form of the table, with the registers it reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

from gpu_ladder.ptx.table import TYPE_BITS, Form


@dataclass(frozen=True)
class Place:
    """A register of the specimen, and the type that the instruction gives it."""

    register: str
    type: str
    bits: int  # of the register; 1 for a predicate


@dataclass(frozen=True)
class Specimen:
    """An instruction as text; `inputs` in the order of its operands."""

    form: Form
    text: str
    inputs: tuple[Place, ...]
    outputs: tuple[Place, ...]


def _address(form: Form) -> str:
    if "const" in form.chosen:
        return "[constants]"
    if form.row.opcode == "ld" and ("param" in form.chosen or "param::entry" in form.chosen):
        return "[parameters]"
    if form.row.opcode == "st" and ".param" in form.text:
        return "[argument]"
    return "[%address]"


def specimen(
    form: Form, immediates: tuple[int, ...] = (4, 4), negate: bool = False, wide: bool = False
) -> Specimen:
    """Writes the instruction with registers named after their order and width.

    Args:
        form: A form of the table.
        immediates: Values of the operands that must be known in the text.
        negate: Whether predicates that may be negated are.
        wide: Whether registers that may be wider than their type have 64 bits.
    """
    inputs: list[Place] = []
    outputs: list[Place] = []
    texts: list[str] = []
    left = list(immediates)

    def new(kind: str, destination: bool, wider: bool) -> str:
        places = outputs if destination else inputs
        bits = 1 if kind == "pred" else 64 if wide and wider else max(16, TYPE_BITS[kind])
        name = f"%{'d' if destination else 's'}{len(places)}_{bits}"
        places.append(Place(name, kind, bits))
        return name

    for operand in form.row.operands:
        kind = form.type_of(operand)
        if operand.kind == "sink":
            continue
        if operand.kind == "address":
            texts.append(_address(form))
        elif operand.kind in ("immediate", "target"):
            texts.append(str(left.pop(0)))
        elif operand.kind == "label":
            texts.append("LABEL")
        elif operand.length:
            names = [
                new(kind, operand.destination, operand.wider)
                for _ in range(form.length_of(operand))
            ]
            texts.append("{" + ", ".join(names) + "}")
        else:
            name = new(kind, operand.destination, operand.wider)
            if operand.paired:
                name += "|" + new("pred", True, False)
            texts.append("!" + name if operand.negatable and negate else name)
    if "L2::cache_hint" in form.chosen:
        texts.append("%policy")
    return Specimen(
        form, f"{form.text} {', '.join(texts)};".replace(" ;", ";"), tuple(inputs), tuple(outputs)
    )


def declarations(specimens: list[Specimen]) -> str:
    """The .reg lines for the registers of these specimens."""
    names = {
        (place.bits, place.register) for one in specimens for place in (*one.inputs, *one.outputs)
    }
    lines = []
    for bits in sorted({bits for bits, _ in names}):
        registers = ", ".join(sorted(name for width, name in names if width == bits))
        lines.append(f"  .reg .{'pred' if bits == 1 else f'b{bits}'} {registers};")
    return "\n".join(lines)
