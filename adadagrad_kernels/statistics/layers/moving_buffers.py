"""Buffers that a module's forward pass writes to, as they were before it."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn

#: Names of the buffers that a module's forward pass moves.
_moving: weakref.WeakKeyDictionary[nn.Module, frozenset[str]] = weakref.WeakKeyDictionary()


#: Buffers before hooks that run ahead of a module's forward pass.
_before_hooks: weakref.WeakKeyDictionary[nn.Module, MovingBuffers] = weakref.WeakKeyDictionary()


def note_buffers(module: nn.Module, args: Any) -> None:
    """A hook ahead of others, which may move buffers, as ``torch.nn.utils.spectral_norm``'s."""
    _before_hooks[module] = MovingBuffers(module)


class MovingBuffers:
    """Buffers of a module that its forward pass writes to, such as those of ``spectral_norm``.

    The first call keeps all buffers, later calls only those that have changed before.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._versions = {name: buffer._version for name, buffer in module.named_buffers()}
        known = _moving.get(module, self._versions)
        self._kept = {n: b.clone() for n, b in module.named_buffers() if n in known}

    def as_they_were(self) -> dict[str, Tensor]:
        """Those that have moved, with their values of before."""
        now = {name: buffer._version for name, buffer in self._module.named_buffers()}
        moved = {name for name, version in self._versions.items() if now.get(name) != version}
        _moving[self._module] = frozenset(moved) | _moving.get(self._module, frozenset())
        return {name: self._kept[name] for name in moved if name in self._kept}


def before_forward(module: nn.Module) -> MovingBuffers:
    """The buffers of a module as they are, or as they were ahead of its hooks."""
    return _before_hooks.pop(module, None) or MovingBuffers(module)
