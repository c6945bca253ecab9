"""What a model has said of its samples, and what it was asked already."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from adadagrad_kernels.statistics.measuring.rows import Rows


@dataclass(frozen=True)
class Answer:
    """What a model says of a form of its arguments.

    Attributes:
        first: the place of the first tensor that has samples, among those of the arguments.
        exchanged: whether samples were exchanged, which takes two of them.
        rows: what the rows of a layer's inputs are, in every call, by its name.
        batched: which tensors among the arguments of its calls have samples.
        users: layers that use parameters which they may only hold for others.
        writers: layers that change their inputs in place.
        doubt: why it could not be asked, or None.
    """

    first: int | None = None
    exchanged: bool = False
    rows: Mapping[str, tuple[Rows, ...]] = field(default_factory=dict)
    batched: Mapping[str, tuple[tuple[bool, ...], ...]] = field(default_factory=dict)
    users: frozenset[str] | None = None
    writers: frozenset[str] = frozenset()
    doubt: str | None = None

    def rows_of(self, layer: str, call: int | None) -> Rows:
        """What the rows of its input are, in a call of this forward pass."""
        kinds = self.rows.get(layer, ())
        if call is not None and call < len(kinds):
            return kinds[call]
        return kinds[0] if kinds and len(set(kinds)) == 1 else Rows.UNKNOWN

    def batched_in(self, layer: str, call: int | None, count: int) -> tuple[bool, ...] | None:
        """Which of ``count`` tensors among its arguments have samples; None if unknown."""
        calls = self.batched.get(layer, ())
        known = call is not None and call < len(calls)
        flags = calls[call or 0] if known else calls[0] if len(set(calls)) == 1 else ()
        return flags if len(flags) == count and count else None


class Asked:
    """What a model was asked: answers by the form of its arguments, and the numbers among them."""

    def __init__(self, model: nn.Module) -> None:
        self.answers: dict[Any, dict[tuple[int, ...], Answer]] = {}
        # Of the modules, so that these keep no model alive.
        self._modules = [weakref.ref(module) for module in model.modules()]
        self._names = [_simple_attributes(module) for module in model.modules()]

    def attributes(self) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """Mode and flags of the modules, and their whole numbers."""
        flags: list[Any] = []
        numbers: list[int] = []
        for ref, names in zip(self._modules, self._names, strict=True):
            attributes = vars(ref() or object)
            for name in names:
                value = attributes.get(name)
                if type(value) is int:
                    numbers.append(value)
                else:
                    flags.append(value if isinstance(value, _SIMPLE) else None)
        return tuple(flags), tuple(numbers)


_SIMPLE = (bool, int, str, type(None))


def _simple_attributes(module: nn.Module) -> list[str]:
    """Those on which the way in which a module computes may depend."""
    if type(module).__module__.startswith("torch."):
        return ["training"]
    return [name for name, value in vars(module).items() if isinstance(value, _SIMPLE)]
