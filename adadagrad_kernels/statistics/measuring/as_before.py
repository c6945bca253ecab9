"""A model that is run once more than its user knows, and shows nothing of it.

Buffers, attributes of modules, counters, the contents of lists and dictionaries on them, random
generators and hooks are afterwards what they were. Hooks that are not torch's own are left out
meanwhile: what they count or keep lies where nobody can put it back.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from adadagrad_kernels.statistics.randomness import RandomState

#: How deep containers and objects on a module are kept.
_DEPTH = 4
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")


@contextmanager
def as_before(model: nn.Module, *, hooks: bool = False) -> Iterator[None]:
    """A context after which the model, the generators and its hooks are as they were.

    Args:
        model: which runs inside.
        hooks: whether all hooks run, or those of torch alone.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    state = RandomState(device)
    kept = [_Kept(module, vars(module), _DEPTH) for module in model.modules()]
    quiet = [] if hooks else list(_quieted(model))
    try:
        yield
    finally:
        for place, before in quiet:
            place.clear()
            place.update(before)
        with torch.no_grad():
            for each in kept:
                each.restore()
        state.restore()


def _quieted(model: nn.Module) -> Iterator[tuple[dict[int, Any], dict[int, Any]]]:
    """Dictionaries of hooks, after those of users were taken out, and what was in them."""
    places = [vars(torch_module)[name] for name in _GLOBAL_HOOKS]
    places += [vars(module)[name] for module in model.modules() for name in _HOOKS]
    for place in places:
        foreign = [key for key, hook in place.items() if not _is_torchs(hook)]
        if foreign:
            yield place, dict(place)
            for key in foreign:
                del place[key]


def _is_torchs(hook: Any) -> bool:
    hook = getattr(hook, "func", hook)
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return str(home).split(".")[0] in ("torch", "adadagrad_kernels")


class _Kept:
    """A mutable value with what it contained."""

    def __init__(self, value: Any, contents: Mapping[Any, Any] | None, depth: int) -> None:
        self._value = value
        self._copy: Any = None
        self._has_attributes = contents is not None and not isinstance(value, dict)
        self._inside: list[_Kept] = []
        if contents is not None:
            self._copy = dict(contents)
        elif isinstance(value, Tensor):
            self._copy = value.detach().clone()
        elif isinstance(value, torch.Generator):
            self._copy = value.get_state()
        elif isinstance(value, random.Random):
            self._copy = value.getstate()
        elif _is_numpy_generator(value):
            self._copy = value.bit_generator.state
        else:
            self._copy = list(value) if isinstance(value, list | deque) else value.copy()
        inside = self._copy.values() if isinstance(self._copy, dict) else self._copy
        if depth and isinstance(self._copy, dict | list):
            self._inside = [each for v in inside if (each := _keep(v, depth - 1)) is not None]

    def restore(self) -> None:
        value, before = self._value, self._copy
        if self._has_attributes:
            attributes = vars(value)
            for name in [name for name in attributes if name not in before]:
                del attributes[name]
            attributes.update(before)
        elif isinstance(value, Tensor):
            # An inference tensor, or one of another device, was not written to.
            if value.shape == before.shape and not _same(value, before):
                value.detach().copy_(before)
        elif isinstance(value, torch.Generator):
            value.set_state(before)
        elif isinstance(value, random.Random):
            value.setstate(before)
        elif _is_numpy_generator(value):
            value.bit_generator.state = before
        elif isinstance(value, list):
            value[:] = before
        elif isinstance(value, deque | set | dict):
            value.clear()
            (value.extend if isinstance(value, deque) else value.update)(before)
        for each in self._inside:
            each.restore()


def _keep(value: Any, depth: int) -> _Kept | None:
    """What has to be kept of a value besides its identity."""
    if isinstance(value, nn.Module):
        return None  # it keeps itself
    if isinstance(value, nn.Parameter):
        # A forward pass does not write to it; what lies beside its values may move, as in
        # parameters of eight bits.
        return _Kept(value, vars(value), depth) if vars(value) else None
    if isinstance(value, Tensor | torch.Generator | random.Random | list | deque | set):
        return None if isinstance(value, Tensor) and value.is_meta else _Kept(value, None, depth)
    if isinstance(value, dict):
        return _Kept(value, value, depth)
    if _is_numpy_generator(value):
        return _Kept(value, None, depth)
    plain = hasattr(value, "__dict__") and not callable(value) and not isinstance(value, type)
    is_library = type(value).__module__.split(".")[0] in ("torch", "numpy", "builtins")
    return _Kept(value, vars(value), depth) if plain and not is_library and depth else None


def _is_numpy_generator(value: Any) -> bool:
    return type(value).__module__.startswith("numpy.random") and hasattr(value, "bit_generator")


def _same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and bool(
        torch.allclose(one, other, 0.0, 0.0, equal_nan=True)
        if one.is_floating_point()
        else torch.equal(one, other)
    )
