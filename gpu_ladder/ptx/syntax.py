"""PTX text parsed into functions, variables and statements; instructions are still text."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from gpu_ladder.ptx.errors import PtxError, PtxNotImplementedError
from gpu_ladder.ptx.table import TYPE_BITS
from gpu_ladder.ptx.text import Statement, split_operands, statements

_VARIABLE = re.compile(
    r"((?:\.(?:visible|extern|weak|common)\s+)*)\.(global|const|shared|local|param)\s+"
    r"(?:\.align\s+(\d+)\s*)?\.(\w+)\s*"
    r"(?:\.ptr\s*(?:\.(?:global|shared|const|local)\s*)?(?:\.align\s+\d+\s*)?)?([\w$%]+)\s*"
    r"((?:\[\s*\d*\s*\]\s*)*)(?:=\s*(.*))?"
)
_HEADER = re.compile(
    r"((?:\.(?:visible|extern|weak|common)\s+)*)\.(entry|func)\s*"
    r"(?:\((?P<returns>[^)]*)\)\s*)?(?P<name>[\w$]+)\s*(?:\((?P<params>[^)]*)\))?\s*(?P<rest>.*)"
)
# What may follow a function's parameters. The ones with numbers bound a launch.
_BOUND = re.compile(
    r"\.(reqntid|maxntid|minnctapersm|maxnreg|maxclusterrank|maxnctapersm|noreturn"
    r"|explicitcluster|reqnctapercluster|blocksareclusters)\b\s*([\d,\s]*)"
)


@dataclass
class Variable:
    """A variable or parameter: where it lies, and how it begins.

    `offset` counts from the beginning of its state space.
    """

    name: str
    space: str
    kind: str
    size: int
    alignment: int
    line: int
    initial: bytes = b""
    extern: bool = False
    unsized: bool = False
    offset: int = 0


@dataclass
class Function:
    """An entry or a function: its parameters and the statements of its body."""

    name: str
    is_entry: bool
    line: int
    params: list[Variable]
    returns: list[Variable]
    body: list[Statement] = field(default_factory=list)
    bounds: dict[str, tuple[int, ...]] = field(default_factory=dict)
    has_body: bool = True


@dataclass
class Source:
    """A parsed PTX module."""

    version: str = ""
    target: str = ""
    files: dict[int, str] = field(default_factory=dict)
    variables: dict[str, Variable] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)


def parse(text: str) -> Source:
    """Parses PTX text.

    Raises:
        PtxError: For a directive that the machine does not know.
    """
    source = Source()
    function: Function | None = None
    depth = 0
    for statement in statements(text):
        if statement.kind == "line" and not statement.text.startswith(".loc"):
            _directive(source, statement)
            continue
        if function is not None:
            if statement.kind == "open":
                depth += 1
            elif statement.kind == "close":
                depth -= 1
            function.body.append(statement)
            if depth == 0:
                function = None
            continue
        if statement.kind in ("header", "prototype"):
            function = _function(statement)
            function.has_body = statement.kind == "header"
            known = source.functions.get(function.name)
            if known is None or not known.has_body:
                source.functions[function.name] = function
            if not function.has_body:
                function = None
        elif statement.kind == "statement" and re.match(
            r"(?:\.(?:visible|extern|weak|common)\s+)*\.(global|const|shared)\b", statement.text
        ):
            variable = parse_variable(statement.text, statement.line)
            source.variables[variable.name] = variable
        elif statement.kind == "statement" and statement.text.startswith(".pragma"):
            continue
        elif not statement.text.startswith(".loc"):
            raise PtxError(f"unknown directive {statement.text[:80]!r}", statement.line)
    if not source.version or not source.target:
        raise PtxError("not a PTX module: .version and .target are missing")
    return source


def _directive(source: Source, statement: Statement) -> None:
    name, _, rest = statement.text.replace("\t", " ").partition(" ")
    if name == ".version":
        source.version = rest.strip()
    elif name == ".target":
        source.target = rest.split(",")[0].strip()
    elif name == ".address_size":
        if rest.strip() != "64":
            raise PtxNotImplementedError("addresses of 32 bits", statement.line)
    elif name == ".file":
        found = re.match(r'(\d+)\s+"([^"]*)"', rest.strip())
        if not found:
            raise PtxError(f"cannot read {statement.text!r}", statement.line)
        source.files[int(found[1])] = found[2]
    else:
        raise PtxError(f"unknown directive {statement.text[:80]!r}", statement.line)


def _function(statement: Statement) -> Function:
    found = _HEADER.fullmatch(statement.text)
    if not found:
        raise PtxError(f"cannot read {statement.text[:80]!r}", statement.line)
    params = [
        parse_variable(text, statement.line) for text in split_operands(found["params"] or "")
    ]
    returns = [
        parse_variable(text, statement.line) for text in split_operands(found["returns"] or "")
    ]
    offset = 0
    for param in params:
        offset = align(offset, param.alignment)
        param.offset = offset
        offset += param.size
    bounds: dict[str, tuple[int, ...]] = {}
    rest = found["rest"]
    while rest.strip():
        bound = _BOUND.match(rest.strip())
        if not bound:
            raise PtxError(f"unknown directive {rest.strip()[:80]!r}", statement.line)
        bounds[bound[1]] = tuple(int(number) for number in re.findall(r"\d+", bound[2]))
        rest = rest.strip()[bound.end() :]
    if "reqnctapercluster" in bounds or "explicitcluster" in bounds:
        raise PtxNotImplementedError("thread block clusters", statement.line)
    return Function(found["name"], found[2] == "entry", statement.line, params, returns, [], bounds)


def align(offset: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return -(-offset // alignment) * alignment


def parse_variable(text: str, line: int) -> Variable:
    """Parses the declaration of a variable or parameter."""
    found = _VARIABLE.fullmatch(text.strip())
    if not found or found[4] not in TYPE_BITS or found[4] == "pred":
        raise PtxError(f"cannot read the variable {text[:80]!r}", line)
    element = TYPE_BITS[found[4]] // 8
    count = 1
    lengths = re.findall(r"\[\s*(\d*)\s*\]", found[6])
    for length in lengths:
        count *= int(length or 0)
    variable = Variable(
        name=found[5],
        space=found[2],
        kind=found[4],
        size=element * count,
        alignment=int(found[3]) if found[3] else element,
        line=line,
        extern=".extern" in found[1],
        unsized="" in lengths,
    )
    if found[7]:
        variable.initial = _initial(found[7], found[4], variable, line)
    if variable.extern and variable.space != "shared":
        raise PtxNotImplementedError(f"the external variable {variable.name}", line)
    return variable


def _initial(text: str, kind: str, variable: Variable, line: int) -> bytes:
    data = b""
    bits = TYPE_BITS[kind]
    for value in re.sub(r"[{}\s]", "", text).split(","):
        data += parse_literal(value, kind, line).to_bytes(bits // 8, "little")
    if variable.unsized:
        variable.size = len(data)
    return data


def parse_literal(text: str, kind: str, line: int) -> int:
    """The bits of a literal of the given type.

    Raises:
        PtxError: If it is none, or too large.
    """
    bits = TYPE_BITS[kind]
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text) and bits == 32:
        return int(text[2:], 16)
    if re.fullmatch(r"0[dD][0-9a-fA-F]{16}", text) and bits == 64:
        return int(text[2:], 16)
    if re.fullmatch(r"-?\d+\.\d*(?:[eE][-+]?\d+)?", text) and kind in ("f32", "f64"):
        code, whole = ("<f", "<I") if kind == "f32" else ("<d", "<Q")
        return int(struct.unpack(whole, struct.pack(code, float(text)))[0])
    number = re.fullmatch(r"(-?)(0[xX][0-9a-fA-F]+|0[bB][01]+|\d+)U?", text)
    # A float register takes a whole number only as bits, which PTX does not have.
    if number and (kind not in ("f32", "f64") or number[2] == "0"):
        digits = number[2]
        octal = re.fullmatch(r"0[0-7]+", digits)
        value = int(digits, 8) if octal else int(digits, 0)
        value = -value if number[1] else value
        if kind == "pred" and value in (0, 1):
            return value
        # Immediates are 64 bits wide until they are used.
        if -(1 << 63) <= value < (1 << 64) and _fits(value, bits):
            return value & ((1 << bits) - 1)
        raise PtxError(f"{text} does not fit into {bits} bits", line)
    raise PtxError(f"{text!r} is not a literal of type {kind}", line)


def _fits(value: int, bits: int) -> bool:
    if -(1 << (bits - 1)) <= value < (1 << bits):
        return True
    # A negative number of fewer bits, written as one of 64.
    return value >= (1 << 64) - (1 << (bits - 1))
