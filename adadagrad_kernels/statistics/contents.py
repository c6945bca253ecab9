"""The tensors inside any value: containers, mappings, dataclasses, objects of any class."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

#: How deep objects may be nested.
_DEPTH = 5
#: Stands for something that can be read only once.
_ONCE = "an iterator"
#: What holds no tensors of a batch, or must not be copied.
_CLOSED = (
    nn.Module,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.GeneratorType,
)


@dataclass(frozen=True, eq=False)
class Contents:
    """A value taken apart.

    Attributes:
        tensors: inside the value, in its order.
        constants: simple values beside them: flags, names and None.
        numbers: numbers beside them.
        others: objects without tensors, which are passed on as they are.
        once: whether something inside can be read only once, such as a generator.
        replaced: rebuilds the value with other tensors in their places; objects are copied.
    """

    tensors: list[Tensor]
    constants: list[Any]
    numbers: tuple[float, ...]
    others: list[Any]
    once: bool
    replaced: Callable[[Sequence[Any]], Any]

    @classmethod
    def of(cls, value: Any) -> Contents:
        """Take a value apart."""
        found = _Found()
        build = _take_apart(value, found, _DEPTH)

        def replaced(others: Sequence[Any]) -> Any:
            return build(iter(others))

        constants = found.constants
        numbers = tuple(c for c in constants if type(c) in (int, float))
        flags = [c for c in constants if type(c) not in (int, float)]
        return cls(found.tensors, flags, numbers, found.others, _ONCE in constants, replaced)


def distinct_tensors(value: Any) -> list[Tensor]:
    """The tensors inside any value, each once."""
    return list({id(tensor): tensor for tensor in Contents.of(value).tensors}.values())


@dataclass
class _Found:
    """What was met on the way."""

    tensors: list[Tensor] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    others: list[Any] = field(default_factory=list)


Build = Callable[[Iterator[Any]], Any]


def _take_apart(value: Any, found: _Found, depth: int) -> Build:
    leaves, structure = tree_flatten(value)
    builds = [_leaf(leaf, found, depth) for leaf in leaves]
    return lambda others: tree_unflatten([build(others) for build in builds], structure)


def _leaf(leaf: Any, found: _Found, depth: int) -> Build:
    if isinstance(leaf, Tensor):
        found.tensors.append(leaf)
        return next
    if leaf is None or isinstance(leaf, bool | str | int | float):
        found.constants.append(leaf)
    elif hasattr(leaf, "__next__"):
        found.constants.append(_ONCE)
    else:
        before = len(found.tensors)
        if depth and not isinstance(leaf, _CLOSED):
            build = _object(leaf, found, depth - 1)
            if len(found.tensors) > before:
                return build
        found.others.append(leaf)
    return lambda others: leaf


def _object(leaf: Any, found: _Found, depth: int) -> Build:
    """An object whose class pytrees do not know: its items, and its attributes."""
    items = _items(leaf)
    builds = {k: _take_apart(v, found, depth) for k, v in items.items()}
    attributes = {
        name: _take_apart(value, found, depth) for name, value in attributes_of(leaf).items()
    }

    def rebuilt(others: Iterator[Any]) -> Any:
        made = {key: build(others) for key, build in builds.items()}
        if isinstance(leaf, tuple):
            again: Any = tuple.__new__(type(leaf), made.values())
        else:
            again = copy.copy(leaf)
            for key, value in made.items():
                again[key] = value
        for name, build in attributes.items():
            object.__setattr__(again, name, build(others))
        return again

    return rebuilt


def _items(leaf: Any) -> Mapping[Any, Any]:
    # A mapping that keeps its items in an attribute, as UserDict, has them there.
    if isinstance(leaf, dict) or (isinstance(leaf, MutableMapping) and not attributes_of(leaf)):
        return dict(leaf.items())
    return dict(enumerate(leaf)) if isinstance(leaf, list | tuple) else {}


def attributes_of(leaf: Any) -> dict[str, Any]:
    """Attributes of an object, in its dictionary and in slots."""
    found = dict(getattr(leaf, "__dict__", {}))
    for kind in type(leaf).__mro__:
        slots: str | Iterable[str] = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(leaf, name):
                found[name] = getattr(leaf, name)
    return found
