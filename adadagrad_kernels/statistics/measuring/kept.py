"""Mutable values, kept with what they contain so that this can be put back.

A value keeps its identity: what was changed inside of it is undone in place.
"""

from __future__ import annotations

import random
import types
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: How deep containers and objects inside of one another are kept.
DEPTH = 4
#: Whose objects keep nothing of a forward pass.
_LIBRARIES = ("torch", "numpy", "builtins", "adadagrad_kernels", "functools")
_CODE = (type, types.FunctionType, types.MethodType, types.ModuleType)


class _Kind(NamedTuple):
    """Values of one kind: which these are, what is kept of one, and how it is put back."""

    includes: Callable[[Any], bool]
    take: Callable[[Any], Any]
    put: Callable[[Any, Any], None]


class Kept:
    """A mutable value with what it contained.

    Args:
        value: of some kind.
        kind: says how it is kept.
        depth: how deep what lies inside is kept.
    """

    def __init__(self, value: Any, kind: _Kind, depth: int) -> None:
        self._value, self._kind = value, kind
        self._before = kind.take(value)
        inside = self._before.values() if isinstance(self._before, dict) else self._before
        deeper = depth and isinstance(self._before, dict | list)
        found = (keep(each, depth - 1) for each in inside) if deeper else ()
        self._inside = [kept for kept in found if kept is not None]

    def restore(self) -> None:
        """Put back what it contained."""
        self._kind.put(self._value, self._before)
        for each in self._inside:
            each.restore()


def keep(value: Any, depth: int = DEPTH) -> Kept | None:
    """What has to be kept of a value besides its identity: None for most."""
    if isinstance(value, nn.Module):
        return None  # it keeps itself
    if isinstance(value, nn.Parameter):
        # A forward pass does not write to it; what lies beside its values may move, as in
        # parameters of eight bits.
        return Kept(value, _ATTRIBUTES, depth) if vars(value) else None
    if isinstance(value, Tensor) and value.is_meta:
        return None
    for kind in _KINDS:
        if kind.includes(value):
            return Kept(value, kind, depth)
    plain = hasattr(value, "__dict__") and not isinstance(value, _CODE)
    is_library = type(value).__module__.split(".")[0] in _LIBRARIES
    return Kept(value, _ATTRIBUTES, depth) if plain and not is_library and depth else None


def keep_module(module: nn.Module) -> list[Kept]:
    """Attributes of a module, those of its class, and what its forward pass names globally."""
    kept = [Kept(module, _ATTRIBUTES, DEPTH)]
    for kind in type(module).__mro__:
        if kind.__module__.split(".")[0] in _LIBRARIES:
            break
        names = [name for name, value in vars(kind).items() if _may_change(name, value)]
        kept.append(Kept(kind, _names(names, vars, setattr), DEPTH))
        forward = vars(kind).get("forward")
        if isinstance(forward, types.FunctionType):
            code, space = forward.__code__, forward.__globals__
            # Not what tensors hold, which may be many.
            names = [n for n in code.co_names if _may_change(n, space.get(n))]
            names = [n for n in names if n in space and not isinstance(space[n], Tensor)]
            kept.append(Kept(space, _names(names, dict, dict.__setitem__), 1))
    return kept


def _may_change(name: str, value: Any) -> bool:
    """Whether a name may hold what a forward pass counts or keeps."""
    simple = isinstance(value, bool | int | float | str | None)
    return not name.startswith("__") and (
        simple or any(kind.includes(value) for kind in _KINDS if kind is not _TUPLES)
    )


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

    return _Kind(lambda _: True, take, put_back)


def _is_of(*classes: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, classes)


def _is_numpys_with(attribute: str) -> Callable[[Any], bool]:
    """Generators of numpy, which need not be there."""
    return lambda value: (
        type(value).__module__.startswith("numpy.random") and hasattr(value, attribute)
    )


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _put_attributes(value: Any, before: dict[str, Any]) -> None:
    attributes = vars(value)
    for name in [name for name in attributes if name not in before]:
        del attributes[name]
    attributes.update(before)


def _put_tensor(value: Tensor, before: Tensor) -> None:
    if value.shape != before.shape:
        value.data = before
    elif not _same(value, before):
        value.detach().copy_(before)


def _put_array(value: Any, before: Any) -> None:
    value[...] = before


def _put_list(value: Any, before: list[Any]) -> None:
    value[:] = before


def _refill(value: Any, before: Any) -> None:
    value.clear()
    (value.extend if isinstance(value, deque) else value.update)(before)


def _put_bits(value: Any, before: Any) -> None:
    value.bit_generator.state = before


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and bool(
        torch.allclose(one, other, 0.0, 0.0, equal_nan=True)
        if one.is_floating_point()
        else torch.equal(one, other)
    )


_ATTRIBUTES = _Kind(lambda value: True, lambda value: dict(vars(value)), _put_attributes)
_TUPLES = _Kind(_is_of(tuple), list, lambda value, before: None)
_KINDS = (
    _Kind(_is_of(Tensor), lambda value: value.detach().clone(), _put_tensor),
    _Kind(_is_of(list), list, _put_list),
    _TUPLES,
    _Kind(_is_of(dict), dict, _refill),
    _Kind(_is_of(set), set, _refill),
    _Kind(_is_of(deque), list, _refill),
    _Kind(_is_of(torch.Generator), lambda v: v.get_state(), lambda v, state: v.set_state(state)),
    _Kind(_is_of(random.Random), lambda v: v.getstate(), lambda v, state: v.setstate(state)),
    _Kind(_is_numpys_with("bit_generator"), lambda v: v.bit_generator.state, _put_bits),
    _Kind(_is_numpys_with("set_state"), lambda v: v.get_state(), lambda v, s: v.set_state(s)),
    _Kind(_is_array, lambda value: value.copy(), _put_array),
)
