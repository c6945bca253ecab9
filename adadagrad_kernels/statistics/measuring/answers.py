"""What a model has said of its samples, and what it was asked already."""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from adadagrad_kernels.shards import kind_of
from adadagrad_kernels.statistics.measuring.rows import Rows

#: Most forms of flags and names, for tensors of the same kinds, that a model is asked about.
_MOST_FORMS = 32


@dataclass(frozen=True)
class Answer:
    """What a model says of a form of its arguments.

    Attributes:
        has_samples: of each tensor among the arguments, whether it has samples; empty if unknown.
        exchanged: whether samples were exchanged, which takes two of them.
        rows: what the rows of a layer's inputs are, in every call, by its name.
        batched: which tensors among the arguments of its calls have samples.
        users: layers that use parameters which they may only hold for others.
        writers: layers that change their inputs in place.
        doubt: why it could not be asked, or None.
        resized: whether it runs with other numbers of samples.
        moves: whether it returned something else when it ran again.
    """

    has_samples: tuple[bool, ...] = ()
    exchanged: bool = False
    rows: Mapping[str, tuple[Rows, ...]] = field(default_factory=dict)
    batched: Mapping[str, tuple[tuple[bool, ...], ...]] = field(default_factory=dict)
    users: frozenset[str] | None = None
    writers: frozenset[str] = frozenset()
    doubt: str | None = None
    resized: bool = False
    moves: bool = False

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
    """What a model was asked.

    Attributes:
        answers: by the form of its arguments, and the numbers among them.
        calls: how often it was called with arguments of a form.
    """

    def __init__(self, model: nn.Module) -> None:
        self.answers: dict[Any, dict[tuple[float, ...], Answer]] = {}
        self.calls: Counter[Any] = Counter()
        self._forms: defaultdict[Any, list[Any]] = defaultdict(list)
        self._places: list[tuple[Callable[[], Any], list[str], list[str]]] = []
        settings: set[int] = set()
        for module in model.modules():
            # Held weakly, settings too, which may know the model: nothing here keeps it alive.
            ref = weakref.ref(module)
            names = [n for n in vars(module) if n == "training" or not _is_from_torch(module)]
            self._places.append((ref, *_simple_attributes(vars(module), names)))
            for name in () if _is_from_torch(module) else names:
                value = vars(module)[name]
                if _is_configuration(value) and id(value) not in settings:
                    settings.add(id(value))
                    simple = _simple_attributes(vars(value), list(vars(value)))
                    self._places.append((partial(_attribute, ref, name), *simple))

    def attributes(self) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Mode, flags and parts of the modules, and their numbers."""
        flags: list[Any] = []
        numbers: list[Any] = []
        for place, names_of_flags, names_of_numbers in self._places:
            attributes = getattr(place(), "__dict__", {})
            flags += map(attributes.get, names_of_flags)
            numbers += map(attributes.get, names_of_numbers)
            flags += map(id, attributes.get("_modules", {}).values())
        try:
            hash(key := (tuple(flags), tuple(numbers)))
        except TypeError:  # one of them has become a list, say
            return (repr(flags),), (repr(numbers),)
        return key

    def form(self, tensors: Any, flags: Any) -> Any:
        """A key for a form of arguments; a flag that changes in every step makes no new one."""
        forms = self._forms[tensors]
        if (tensors, flags) not in self.answers and len(forms) >= _MOST_FORMS:
            return forms[-1]
        if (tensors, flags) not in self.answers:
            forms.append((tensors, flags))
        return tensors, flags

    def is_due(self, form: Any) -> bool:
        """Whether a form is asked again: at its 16th call, its 64th, its 256th and so on.

        A buffer that counts, for example, may have changed how the model computes.
        """
        self.calls[form] += 1
        calls = self.calls[form]
        return calls >= 16 and calls & (calls - 1) == 0 and calls.bit_length() % 2 == 1


def _attribute(module: Callable[[], Any], name: str) -> Any:
    return getattr(module(), name, None)


def _is_from_torch(module: nn.Module) -> bool:
    return kind_of(module).__module__.startswith("torch.")


def _simple_attributes(
    attributes: Mapping[str, Any], names: list[str]
) -> tuple[list[str], list[str]]:
    """Names of flags and of numbers, on which the way in which a module computes may depend."""
    simple = [n for n in names if isinstance(attributes[n], bool | int | float | str | None)]
    numbers = [n for n in simple if type(attributes[n]) in (int, float)]
    return [name for name in simple if name not in numbers], numbers


def _is_configuration(value: Any) -> bool:
    """An object such as a configuration."""
    plain = hasattr(value, "__dict__") and not callable(value)
    return plain and not isinstance(value, nn.Module | Tensor)
