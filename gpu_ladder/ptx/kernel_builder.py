"""One kernel of a parsed module, with the functions it calls, as a program for the engine."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import PurePath

from gpu_ladder.ptx.encode import Encoded, Encoder
from gpu_ladder.ptx.errors import PtxError, PtxNotImplementedError
from gpu_ladder.ptx.operands import Scope
from gpu_ladder.ptx.slots import Slots
from gpu_ladder.ptx.syntax import Function, Source, Variable, align, parse_variable
from gpu_ladder.ptx.text import split_operands

_CALL = re.compile(
    r"(?P<guard>@!?\s*[\w$%]+\s+)?call(?:\.uni)?\s+(?:\((?P<returns>[^)]*)\)\s*,\s*)?"
    r"(?P<name>[\w$%]+)\s*(?:,\s*\((?P<arguments>[^)]*)\)\s*)?(?P<rest>,.*)?"
)


@dataclass
class Program:
    """What the engine needs of one kernel.

    `locations` holds the source file and line of each instruction, where the compiler gave them.
    """

    name: str
    params: list[Variable]
    bounds: dict[str, tuple[int, ...]]
    code: list[Encoded]
    tables: list[int]
    slots: Slots
    local_bytes: int
    static_shared_bytes: int
    dynamic_shared_offset: int
    files: dict[int, str]

    @property
    def parameter_bytes(self) -> int:
        """The size of all parameters together."""
        return max((param.offset + param.size for param in self.params), default=0)

    def location(self, index: int) -> tuple[str, int]:
        """Source file and line of an instruction; an empty name where unknown."""
        place = self.code[index].location
        return (self.files.get(place[0], ""), place[1]) if place else ("", 0)

    def describe(self, index: int) -> str:
        """How messages call an instruction."""
        file, line = self.location(index)
        ptx = f"PTX line {self.code[index].line}"
        return f"{PurePath(file).name}:{line} ({ptx})" if file else ptx

    def packed_code(self, operations: dict[str, int]) -> tuple[bytes, bytes]:
        """Instructions and operands as the engine reads them."""
        code: list[bytes] = []
        operands: list[int] = []
        for encoded in self.code:
            if encoded.engine not in operations:
                raise PtxNotImplementedError(f"the engine has no {encoded.engine!r}", encoded.line)
            code.append(encoded.pack(operations[encoded.engine], len(operands)))
            operands += encoded.operands
        return b"".join(code), struct.pack(f"<{len(operands)}I", *operands)


@dataclass
class KernelBuilder:
    """Builds the program of one entry; functions have one frame each, so none may recurse."""

    source: Source
    entry: Function
    slots: Slots = field(default_factory=Slots)
    code: list[Encoded] = field(default_factory=list)
    tables: list[int] = field(default_factory=list)
    local_bytes: int = 0
    shared_bytes: int = 0

    def build(self) -> Program:
        """Encodes the entry and everything it calls."""
        self._lay_out_shared()
        self._starts: dict[str, int] = {}
        self._scopes: dict[str, Scope] = {}
        self._calls: dict[str, set[str]] = {}
        waiting = [self.entry]
        while waiting:
            function = waiting.pop()
            if function.name not in self._starts:
                waiting += self._encode(function)
        self._refuse_recursion(self.entry.name, ())
        for encoded in self.code:
            self._resolve(encoded)
        return Program(
            name=self.entry.name,
            params=self.entry.params,
            bounds=self.entry.bounds,
            code=self.code,
            tables=self.tables,
            slots=self.slots,
            local_bytes=align(self.local_bytes, 16),
            static_shared_bytes=self.shared_bytes,
            dynamic_shared_offset=self.dynamic_offset,
            files=self.source.files,
        )

    def _lay_out_shared(self) -> None:
        """Static shared memory comes first, what the launch adds after it."""
        self._shared: dict[tuple[str, str], Variable] = {}
        found = [("", variable) for variable in self.source.variables.values()]
        for function in self.source.functions.values():
            if function.is_entry and function is not self.entry:
                continue
            for statement in function.body:
                if statement.text.startswith(".shared"):
                    found.append((function.name, parse_variable(statement.text, statement.line)))
        dynamic = []
        alignment = 16
        for owner, variable in found:
            if variable.space != "shared":
                continue
            self._shared[owner, variable.name] = variable
            if variable.extern:
                dynamic.append(variable)
                alignment = max(alignment, variable.alignment)
            else:
                variable.offset = align(self.shared_bytes, variable.alignment)
                self.shared_bytes = variable.offset + variable.size
        self.dynamic_offset = align(self.shared_bytes, alignment) if dynamic else self.shared_bytes
        for variable in dynamic:
            variable.offset = self.dynamic_offset

    def _local(self, variable: Variable, space: str) -> Variable:
        variable.offset = align(self.local_bytes, variable.alignment)
        self.local_bytes = variable.offset + variable.size
        variable.space = space
        return variable

    def _scope_of(self, function: Function) -> Scope:
        """The outermost scope of a function: its parameters, and the module's variables."""
        if function.name in self._scopes:
            return self._scopes[function.name]
        scope = Scope(self.slots)
        scope.variables.update(
            {name: one for name, one in self.source.variables.items() if one.space != "shared"}
        )
        for (owner, name), variable in self._shared.items():
            if owner in ("", function.name):
                scope.variables[name] = variable
        for param in (*function.params, *function.returns):
            scope.variables[param.name] = param if function.is_entry else self._local(param, "call")
        if not function.is_entry:
            scope.return_slot = self.slots.register(32)
        self._scopes[function.name] = scope
        return scope

    def _encode(self, function: Function) -> list[Function]:
        self._starts[function.name] = len(self.code)
        scope = self._scope_of(function)
        called: list[Function] = []
        label = ""
        location: tuple[int, int] | None = None
        for statement in function.body:
            text, line = statement.text, statement.line
            if statement.kind == "open":
                scope = scope.inner()
            elif statement.kind == "close":
                scope = scope.outer or scope
            elif statement.kind == "label":
                label = text
                scope.labels[label] = len(self.code)
            elif statement.kind == "line":
                location = self._location(text, line)
            elif text.startswith(".reg"):
                scope.declare(text, line)
            elif text.startswith((".local", ".param")):
                space = "local" if text.startswith(".local") else "call"
                variable = self._local(parse_variable(text, line), space)
                scope.variables[variable.name] = variable
            elif text.startswith(".branchtargets"):
                scope.tables[label] = split_operands(text.partition(" ")[2])
            elif text.startswith((".shared", ".pragma")):
                continue
            elif text.startswith("."):
                raise PtxNotImplementedError(text[:80], line)
            elif _CALL.fullmatch(text):
                called += self._call(function, scope, text, line, location)
            else:
                Encoder(scope, self.code.append).instruction(text, line, location)
        Encoder(self._scope_of(function), self.code.append).instruction(
            "ret", function.line, location
        )
        return called

    def _location(self, text: str, line: int) -> tuple[int, int]:
        """Where an instruction comes from; for what a CUDA header wraps, where that was called."""
        found = re.match(r"\.loc\s+(\d+)\s+(\d+)(?:.*inlined_at\s+(\d+)\s+(\d+))?", text)
        if not found:
            raise PtxError(f"cannot read {text[:80]!r}", line)
        own = (int(found[1]), int(found[2]))
        if found[3] and "/include/" in self.source.files.get(own[0], ""):
            return (int(found[3]), int(found[4]))
        return own

    def _call(
        self,
        caller: Function,
        scope: Scope,
        text: str,
        line: int,
        location: tuple[int, int] | None,
    ) -> list[Function]:
        """Arguments into the function's frame, the jump, and its results back out of it."""
        found = _CALL.fullmatch(text)
        if found is None:
            raise PtxError(f"cannot read {text[:80]!r}", line)
        function = self.source.functions.get(found["name"])
        if function is None or found["rest"]:
            raise PtxNotImplementedError(f"a call through a register: {text[:80]!r}", line)
        encoder = Encoder(scope, self.code.append)
        guard = found["guard"] or ""
        if not function.has_body:
            if function.name == "__assertfail":
                encoder.instruction(f"{guard}trap", line, location)
                return []
            raise PtxNotImplementedError(f"a call of the external {function.name}", line)
        callee = self._scope_of(function)
        returns = split_operands(found["returns"] or "")
        arguments = split_operands(found["arguments"] or "")
        if len(arguments) != len(function.params) or len(returns) != len(function.returns):
            raise PtxError(f"{function.name} takes other arguments than {text[:80]!r}", line)
        probe: list[Encoded] = []
        Encoder(scope, probe.append).instruction(f"{guard}trap", line, location)

        def add(engine: str, **values: object) -> None:
            encoded = Encoded(
                engine,
                line,
                guard=probe[0].guard,
                guard_flip=probe[0].guard_flip,
                location=location,
            )
            for name, value in values.items():
                setattr(encoded, name, value)
            self.code.append(encoded)

        def copy(source: Variable, target: Variable) -> None:
            add(
                "copy.local",
                immediate=source.offset << 32 | target.offset,
                target=min(source.size, target.size),
            )

        for name, param in zip(arguments, function.params, strict=True):
            copy(self._argument(scope, name, line), param)
        add("call", operands=[callee.return_slot], target=(None, function.name))
        for name, result in zip(returns, function.returns, strict=True):
            copy(result, self._argument(scope, name, line))
        self._calls.setdefault(caller.name, set()).add(function.name)
        return [function]

    @staticmethod
    def _argument(scope: Scope, name: str, line: int) -> Variable:
        variable = scope.variable(name)
        if variable is None or variable.space != "call":
            raise PtxNotImplementedError(f"the argument {name!r}: only .param variables", line)
        return variable

    def _refuse_recursion(self, name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise PtxNotImplementedError(f"recursion: {' -> '.join((*above, name))}")
        for called in self._calls.get(name, ()):
            self._refuse_recursion(called, (*above, name))

    def _resolve(self, encoded: Encoded) -> None:
        """Labels into indices of instructions."""
        if isinstance(encoded.target, int):
            return
        scope, name = encoded.target
        if scope is None:
            encoded.target = self._starts[name]
            return
        if encoded.engine == "brx.idx":
            labels = scope.table(name)
            if labels is None:
                raise PtxError(f"unknown branch table {name!r}", encoded.line)
            encoded.target = len(self.tables)
            encoded.immediate = len(labels)
            self.tables += [self._index(scope, label, encoded.line) for label in labels]
            return
        encoded.target = self._index(scope, name, encoded.line)

    @staticmethod
    def _index(scope: Scope, label: str, line: int) -> int:
        index = scope.label(label)
        if index is None:
            raise PtxError(f"unknown label {label!r}", line)
        return index
