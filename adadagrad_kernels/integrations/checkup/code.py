"""What functions of the user do, read from their code without running it."""

from __future__ import annotations

import dis
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any


def own_functions(thing: Any, packages: tuple[str, ...]) -> Iterator[FunctionType]:
    """The methods that its classes define, but for those of some packages."""
    for kind in type(thing).__mro__:
        if kind.__module__.partition(".")[0] in (*packages, "builtins"):
            continue
        yield from (f for f in vars(kind).values() if isinstance(f, FunctionType))


def assigned(function: FunctionType) -> set[str]:
    """The attributes that it assigns, of whatever object."""
    found = set()
    for code in _with_inner(function.__code__):
        found |= {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_ATTR"}
        if "setattr" in code.co_names:
            found |= {constant for constant in code.co_consts if isinstance(constant, str)}
    return found


def named(function: FunctionType) -> set[str]:
    """The attributes and globals that it names."""
    return {name for code in _with_inner(function.__code__) for name in code.co_names}


def reads_its_argument(function: Callable[..., Any]) -> bool:
    """Whether a function of one number reads it; where its code cannot be seen, yes."""
    bound = 0
    while isinstance(function, partial):
        bound += len(function.args)
        function = function.func
    if not isinstance(function, FunctionType | MethodType):
        function = getattr(function, "__call__", function)  # noqa: B004 - the method itself
    if isinstance(function, MethodType):
        bound += 1
        function = function.__func__
    if not isinstance(function, FunctionType) or function.__code__.co_argcount <= bound:
        return True
    code = function.__code__
    name = code.co_varnames[bound]
    return name in code.co_cellvars or any(
        i.opname.startswith("LOAD_FAST") and name in (i.argval, *_both(i.argval))
        for i in dis.get_instructions(code)
    )


def _both(argument: Any) -> tuple[Any, ...]:
    """Of an instruction that loads two variables."""
    return argument if isinstance(argument, tuple) else ()


def _with_inner(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_inner(constant)
