"""Mutable values and their contents, kept so that they can be put back.

A value keeps its identity: changes inside it are undone in place. Everything that can be reached
from a module is kept: its attributes, those of its classes, what its methods name or close over,
and the contents of all these.
"""

from __future__ import annotations

import array
import functools
import operator
import random
import sys
import types
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from adadagrad_kernels.statistics.contents import attributes_of

#: How deep nested values are kept, how many of a container, and how many in all: more are data.
_DEPTH, _MOST, _MOST_IN_ALL = 8, 1000, 100_000
#: Elements of a tensor that is copied even if nobody writes to it.
_LARGE = 1 << 20
#: Whose objects keep nothing of a forward pass, and whose code counts nothing.
_QUIET = {"torch", "numpy", "adadagrad_kernels", "builtins", "functools"}
#: What other threads and processes may change meanwhile.
_SHARED = {"_thread", "asyncio", "concurrent", "logging", "multiprocessing", "socket", "subprocess"}
_SHARED |= {"_io", "io", "ssl", "threading"}
_LIBRARIES = {*_QUIET, *sys.stdlib_module_names} - {"__main__"}
_SIMPLE = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device, range)


class _Kind(NamedTuple):
    """Values of one kind: what is kept of one, and how it is put back."""

    take: Callable[[Any], Any]
    put: Callable[[Any, Any], None]


class SavedState:
    """Values with what they contained.

    Args:
        copies: whether all tensors are copied; else ``large`` has those that somebody else keeps.

    Attributes:
        modules: that were met.
        large: tensors that are too large to be copied.
    """

    def __init__(self, *, copies: bool) -> None:
        self.modules: list[nn.Module] = []
        self.large: list[Tensor] = []
        self._copies = copies
        self._kept: list[tuple[Any, _Kind, Any]] = []
        self._seen: set[int] = set()

    def restore(self) -> None:
        """Put back what they contained; warn of what cannot be put back."""
        for value, kind, before in self._kept:
            try:
                kind.put(value, before)
            except Exception as error:
                warnings.warn(
                    f"the model was asked about its samples, and a {type(value).__name__} that its "
                    f"forward pass has changed could not be put back ({error}). Way out: keep it "
                    "where no module, argument or global name leads to it",
                    UserWarning,
                    stacklevel=2,
                )

    def add(self, value: Any, depth: int = _DEPTH) -> None:
        """Keep a value, and what lies inside."""
        if type(value) in _SIMPLE or id(value) in self._seen or len(self._seen) > _MOST_IN_ALL:
            return
        self._seen.add(id(value))
        if isinstance(value, nn.Module):
            self._add_module(value)
        elif isinstance(value, Tensor):
            self._add_tensor(value)
        elif isinstance(value, type | types.ModuleType):
            return
        elif isinstance(value, weakref.ref):
            self.add(value(), depth)
        elif isinstance(value, functools.partial):
            self._inside((value.func, value.args, value.keywords), depth)
        elif isinstance(value, types.FunctionType):
            self._add_function(value, depth)
        elif isinstance(value, types.MethodType | types.BuiltinMethodType):
            self._inside((value.__self__, getattr(value, "__func__", None)), depth)
        else:
            kind = _kind_of(type(value))  # type: ignore[arg-type]
            if kind is not None:
                self._keep(value, kind, depth)
            if kind is _ATTRIBUTES:
                self._add_classes(type(value))

    def _keep(self, value: Any, kind: _Kind, depth: int) -> None:
        before = kind.take(value)
        self._kept.append((value, kind, before))
        if isinstance(before, dict):
            self._inside(before.values(), depth)
        elif isinstance(before, list):
            self._inside(before, depth)

    def _inside(self, values: Iterable[Any], depth: int) -> None:
        for count, value in enumerate(values if depth else ()):
            if count == _MOST:
                return
            self.add(value, depth - 1)

    def _add_tensor(self, value: Tensor) -> None:
        if isinstance(value, nn.Parameter):
            # A forward pass does not write to it; what lies beside its values may move, as in
            # parameters of eight bits.
            if vars(value):
                self._keep(value, _ATTRIBUTES, _DEPTH)
        elif value.is_meta:
            return
        elif value.numel() > _LARGE and not self._copies and value.layout is torch.strided:
            self.large.append(value)
        else:
            self._kept.append((value, _TENSOR, _TENSOR.take(value)))

    def _add_module(self, module: nn.Module) -> None:
        self.modules.append(module)
        self._keep(module, _ATTRIBUTES, _DEPTH)
        self._add_classes(type(module))

    def _add_classes(self, kind: type) -> None:
        for base in kind.__mro__:
            if _is_library(base):
                break
            if id(base) not in self._seen:
                self._seen.add(id(base))
                self._add_class(base)

    def _add_class(self, kind: type) -> None:
        values = {name: v for name, v in vars(kind).items() if not name.startswith("__")}
        names = [name for name, value in values.items() if type(value) in _SIMPLE]
        self._keep(kind, _names(names, vars, setattr), _DEPTH)
        self._inside(values.values(), _DEPTH)

    def _add_function(self, function: types.FunctionType, depth: int) -> None:
        if _is_library(function) or not depth:
            return
        self._keep(function, _ATTRIBUTES, depth)
        for cell in function.__closure__ or ():
            self._keep(cell, _CELL, depth)
        space, used = function.__globals__, set(_names_in(function.__code__))
        names = [name for name in used if name in space]
        simple = [name for name in names if type(space[name]) in _SIMPLE]
        self._keep(space, _names(simple, dict, dict.__setitem__), depth)
        for name in names:
            value = space[name]
            if isinstance(value, types.ModuleType) and not _is_library(value):
                inside = [n for n in used if type(vars(value).get(n, _names)) in _SIMPLE]
                self._keep(value, _names(inside, vars, setattr), depth)
            elif isinstance(value, type) and not _is_library(value):
                self._add_classes(value)
            else:
                self.add(value, depth - 1)


def _is_library(value: Any) -> bool:
    home = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
    return str(home).split(".")[0] in _LIBRARIES


def _names_in(code: types.CodeType) -> Iterator[str]:
    """Names that a function uses, and those inside of it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _names(
    names: Iterable[str], inside: Callable[[Any], Mapping[str, Any]], put: Callable[..., None]
) -> _Kind:
    """Some names of a class or of a Python file."""

    def take(space: Any) -> dict[str, Any]:
        return {name: inside(space)[name] for name in names}

    def put_back(space: Any, before: dict[str, Any]) -> None:
        now = inside(space)
        for name, value in before.items():
            if now.get(name) is not value:
                put(space, name, value)

    return _Kind(take, put_back)


def _put_attributes(value: Any, before: dict[str, Any]) -> None:
    now = attributes_of(value)
    for name in [name for name in now if name not in before]:
        object.__delattr__(value, name)
    for name, attribute in before.items():
        if name not in now or now[name] is not attribute:
            own = getattr(value, "__dict__", {})
            if name in own or not hasattr(type(value), name):
                own[name] = attribute
            else:
                object.__setattr__(value, name, attribute)


def _put_cell(cell: Any, before: tuple[Any, ...]) -> None:
    for contents in before:
        if cell.cell_contents is not contents:
            cell.cell_contents = contents


def _take_cell(cell: Any) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # not filled yet
        return []


def _put_tensor(value: Tensor, before: Tensor) -> None:
    if value.shape != before.shape:
        value.data = before
    elif not _same(value, before):
        value.detach().copy_(before)


def _put_array(value: Any, before: Any) -> None:
    if value.shape != before.shape:
        value.resize(before.shape, refcheck=False)
    if value.flags.writeable:
        value[...] = before


def _put_items(value: Any, before: list[Any]) -> None:
    if len(value) != len(before) or any(map(operator.is_not, value, before)):
        value[:] = before


def _put_deque(value: deque[Any], before: list[Any]) -> None:
    now = list(value)
    if len(now) != len(before) or any(map(operator.is_not, now, before)):
        value.clear()
        value.extend(before)


def _put_mapping(value: dict[Any, Any], before: dict[Any, Any]) -> None:
    same = list(value) == list(before) and all(map(operator.is_, value.values(), before.values()))
    if not same:
        value.clear()
        value.update(before)


def _put_set(value: set[Any], before: set[Any]) -> None:
    if value != before:
        value.clear()
        value.update(before)


def _put_elements(value: Any, before: Any) -> None:
    if value != before:
        value[:] = before


def _put_bits(value: Any, before: Any) -> None:
    value.bit_generator.state = before


def _same(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.layout is not other.layout:
        return False
    if one.layout is not torch.strided:
        pairs = zip(_dense_parts(one), _dense_parts(other), strict=True)
        return all(a.shape == b.shape and _same(a, b) for a, b in pairs)
    if not one.is_floating_point():
        return torch.equal(one, other)
    return torch.allclose(one, other, 0.0, 0.0, equal_nan=True)


def _dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return tensor.ccol_indices(), tensor.row_indices(), tensor.values()


_ATTRIBUTES = _Kind(attributes_of, _put_attributes)
_CELL = _Kind(_take_cell, _put_cell)
_TENSOR = _Kind(lambda value: value.detach().clone(), _put_tensor)
_STATE = _Kind(lambda value: value.get_state(), lambda value, state: value.set_state(state))
_KINDS: dict[type, _Kind] = {
    list: _Kind(list, _put_items),
    tuple: _Kind(list, lambda value, before: None),
    dict: _Kind(dict, _put_mapping),
    set: _Kind(set, _put_set),
    deque: _Kind(list, _put_deque),
    bytearray: _Kind(bytes, _put_elements),
    array.array: _Kind(lambda value: value[:], _put_elements),
    torch.Generator: _STATE,
    random.Random: _Kind(lambda value: value.getstate(), lambda value, s: value.setstate(s)),
}


@functools.cache
def _kind_of(kind: type) -> _Kind | None:
    """None for what a forward pass does not change."""
    for known, how in _KINDS.items():
        if issubclass(kind, known):
            return how
    if kind.__module__.startswith("numpy"):  # which need not be there
        if kind.__name__ == "ndarray":
            return _Kind(lambda value: value.copy(), _put_array)
        if hasattr(kind, "bit_generator"):
            return _Kind(lambda value: value.bit_generator.state, _put_bits)
        return _STATE if hasattr(kind, "set_state") else None
    return None if kind.__module__.split(".")[0] in _QUIET | _SHARED else _ATTRIBUTES
