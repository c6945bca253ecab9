"""The step counters of a bucket, and which of them are known to be equal without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

State = dict[str, Any]

_step_of = itemgetter("step")


class Counters:
    """The states' ``step`` tensors as the elements of one vector.

    Counters on a device are not read in a step, nor are those of a step that a graph may capture.
    Which of them are equal follows from how they began, and from which tensors had gradients since.
    """

    def __init__(self, states: list[State], device: torch.device | None, capturable: bool) -> None:
        self._states = states
        self._capturable = capturable
        # Equal numbers stand for equal counts; different ones say nothing.
        self._alike = list(range(len(states)))
        self._in_a_graph = False
        self._join(device)

    @property
    def device(self) -> torch.device:
        """Where the counts lie."""
        return self._vector.device

    def are_current(self) -> bool:
        """Whether the states still hold the elements of the vector."""
        return all(map(is_, map(_step_of, self._states), self._elements))

    def begin_equal(self) -> None:
        """Know that all counts are the same."""
        self._alike = [0] * len(self._alike)

    def read(self) -> None:
        """Find out which counts are equal; waits for a device."""
        numbers: dict[float, int] = {}
        counts = self._vector.tolist()
        self._alike = [numbers.setdefault(count, len(numbers)) for count in counts]
        self._version = self._version_now()

    def move(self, device: torch.device) -> None:
        """Count on ``device`` from now on."""
        if self._vector.is_cpu:
            self.read()
        self._join(device)

    def groups(self, positions: Sequence[int] | None) -> list[tuple[float | Tensor, list[int]]]:
        """Counts, and the places in ``positions`` (None: all) of the tensors that have them.

        Counts that are not read are 0-dimensional float64 tensors, and come apart where they may
        differ.
        """
        readable = self._readable()
        if not readable and self._version != self._version_now():
            self._alike = list(range(len(self._states)))  # someone has written counts by hand
        keys: list[float] = self._vector.tolist() if readable else list(self._alike)
        if positions is not None:
            keys = [keys[i] for i in positions]
        found: dict[float, list[int]] = {}
        if keys.count(keys[0]) == len(keys):
            found[keys[0]] = list(range(len(keys)))
        else:
            for place, key in enumerate(keys):
                found.setdefault(key, []).append(place)
        if readable:
            return list(found.items())
        chosen = range(len(keys)) if positions is None else positions
        return [(self._elements[chosen[p[0]]].double(), p) for p in found.values()]

    def rely_on_groups(self) -> None:
        """Require that equal counts stay equal, because a captured graph relies on it."""
        self._in_a_graph = True

    def part_ways(self, positions: Sequence[int] | None) -> None:
        """Note that the tensors at ``positions`` are about to count a step, and others are not.

        Raises:
            RuntimeError: where counts would part that a captured graph takes for equal.
        """
        if positions is None or self._readable():
            return
        counting = set(positions)
        numbers: dict[tuple[int, bool], int] = {}
        parted = [
            numbers.setdefault((number, i in counting), len(numbers))
            for i, number in enumerate(self._alike)
        ]
        if self._in_a_graph and len(numbers) > len(set(self._alike)):
            raise RuntimeError(
                f"{len(counting)} of {len(parted)} parameters have a gradient, but a graph was "
                "captured whose lr_decay uses a count that they shared with others; put "
                "parameters that lack a gradient in some steps into a group of their own"
            )
        self._alike = parted

    def count(self, positions: Sequence[int] | None, found_inf: Tensor | None) -> None:
        """Count a step of the tensors at ``positions``, or of all; none where it is skipped."""
        taken = None if found_inf is None else (found_inf == 0).to(self._vector.dtype)
        if positions is None:
            self._vector.add_(1 if taken is None else taken)
        elif self._readable():
            self._vector[positions] += 1
        else:  # a list of positions would have to be copied to the device
            counting = [self._elements[i] for i in positions]
            if taken is None:
                torch._foreach_add_(counting, 1)
            else:
                torch._foreach_add_(counting, [taken] * len(counting))
        self._version = self._version_now()

    def _readable(self) -> bool:
        return self._vector.is_cpu and not self._capturable

    def _version_now(self) -> int:
        return 0 if self._vector.is_inference() else self._vector._version

    def _join(self, device: torch.device | None) -> None:
        dtype = None if device is None else torch.float32  # to which torch casts loaded counts
        self._vector = join(self._states, "step", dtype, device)
        self._elements: list[Tensor] = list(map(_step_of, self._states))
        self._version = self._version_now()


def join(
    states: list[State],
    key: str,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Tensor:
    """One vector of the states' 0-dimensional tensors, which become its elements.

    One addition then counts the steps of hundreds of parameters. Tensors that lie so already, as
    after unpickling or sharing between processes, stay where they are. Nothing waits for a device.
    """
    scalars: list[Tensor] = [state[key] for state in states]
    first = scalars[0]
    dtype, device = dtype or first.dtype, device or first.device
    storage, start = first.untyped_storage()._cdata, first.storage_offset()
    if all(
        scalar.dtype == dtype
        and scalar.device == device
        and scalar.storage_offset() == start + i
        and scalar.untyped_storage()._cdata == storage
        for i, scalar in enumerate(scalars)
    ):
        return first.as_strided((len(scalars),), (1,), start)
    numbers = [scalar.detach().reshape(()).to(first.device, dtype) for scalar in scalars]
    joined = torch.stack(numbers).to(device, non_blocking=device.type != "cpu")
    for i, state in enumerate(states):
        state[key] = joined.select(0, i)
    return joined
