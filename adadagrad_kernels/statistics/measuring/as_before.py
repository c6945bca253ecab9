"""Runs a model once more than its user asked for, and leaves no trace of it.

Buffers, attributes of modules and of their classes, counters, the contents of lists and
dictionaries on them, random generators and hooks are put back afterwards. Hooks that are not
torch's own do not run meanwhile: what they count or keep lies where nobody can put it back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import TorchDispatchMode

from adadagrad_kernels.shards import is_sharded
from adadagrad_kernels.statistics.measuring.saved_state import SavedState
from adadagrad_kernels.statistics.randomness import RandomState

_BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", *_BACKWARD_HOOKS)


@contextmanager
def as_before(
    model: nn.Module,
    *,
    hooks: bool = False,
    parameters: bool = True,
    arguments: Iterable[Any] = (),
) -> Iterator[None]:
    """A context that restores the model, the generators and its hooks afterwards.

    Args:
        model: which runs inside.
        hooks: whether all hooks run, or those of torch alone.
        parameters: whether the forward pass may write to these; then every call of torch is
            watched.
        arguments: objects that it is called with, which are kept too.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    state = RandomState(device)
    # A module outside of the model, such as a teacher in a list, is kept like the others.
    saved = SavedState(copies=not parameters)
    for module in model.modules():
        saved.add(module)
    for argument in arguments:
        saved.add(argument)
    held = [p for module in saved.modules for p in module._parameters.values()]
    watched = [p for p in held if p is not None and parameters]
    values = _Values([*watched, *saved.large])
    quiet = [] if hooks else list(_quieted(model))
    try:
        with values if parameters else nullcontext():
            yield
    finally:
        for place, before in quiet:
            place.clear()
            place.update(before)
        state.restore()
        with torch.no_grad():
            values.restore()
            saved.restore()


class _Values(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps a parameter that a forward pass writes to, such as a running average, before the write.

    Hardly any is ever written to, and only those that are get copied.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        values = ((p, p.data) for p in parameters)
        # Neither parameters without values yet nor those of other kinds, such as sparse ones.
        self._parameters = {
            id(p): (p, data)
            for p, data in values
            if type(data) is Tensor and data.layout is torch.strided and not data.is_meta
        }
        self._copies: dict[int, Tensor] = {}
        places = defaultdict(list)
        for key, (_, data) in self._parameters.items():
            places[data.untyped_storage().data_ptr()].append(key)
        self._at = dict(places)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._keep(value)
            for argument in func._schema.arguments:
                if argument.name in kwargs and argument.alias_info is not None:
                    self._keep(kwargs[argument.name])
        return func(*args, **kwargs)

    def _keep(self, written: Any) -> None:
        for tensor in written if isinstance(written, list | tuple) else (written,):
            # A DTensor has no memory of its own, and no parameter here is one.
            plain = isinstance(tensor, Tensor) and not is_sharded(tensor) and not tensor.is_meta
            if plain and tensor.layout is torch.strided:
                for key in self._at.get(tensor.untyped_storage().data_ptr(), ()):
                    if key not in self._copies:
                        self._copies[key] = self._parameters[key][1].clone()

    def restore(self) -> None:
        """Give them back their values."""
        for key, (parameter, values) in self._parameters.items():
            if not parameter.is_set_to(values):
                parameter.data = values
            if key in self._copies:
                values.copy_(self._copies[key])


def has_hooks_of_users(model: nn.Module) -> bool:
    """Whether hooks of others than torch run in its forward pass."""
    return any(
        not _is_from_torch(hook) for place in _places(model, _HOOKS) for hook in place.values()
    )


def has_backward_hooks(model: nn.Module) -> bool:
    """Whether hooks see, and may change, gradients between its modules."""
    return any(_places(model, _BACKWARD_HOOKS))


def _places(model: nn.Module, names: Iterable[str]) -> list[dict[int, Any]]:
    """Dictionaries of hooks of some kinds: of all modules, and of each of the model's."""
    places = [vars(torch_module)[f"_global{name}"] for name in names]
    return places + [vars(module)[name] for module in model.modules() for name in names]


def _quieted(model: nn.Module) -> Iterator[tuple[dict[int, Any], dict[int, Any]]]:
    """Dictionaries of hooks, after those of users were taken out, and what was in them."""
    for place in _places(model, _HOOKS):
        foreign = [key for key, hook in place.items() if not _is_from_torch(hook)]
        if foreign:
            yield place, dict(place)
            for key in foreign:
                del place[key]


def _is_from_torch(hook: Any) -> bool:
    hook = getattr(hook, "func", hook)
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return str(home).split(".")[0] in ("torch", "adadagrad_kernels")
