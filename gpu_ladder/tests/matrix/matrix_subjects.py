"""What the subjects are run on, and what must come out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

#: As subject.h has them.
LR, EPS, WEIGHT_DECAY, GRAD_SCALE = 0.1, 1e-3, 0.01, 2.0


@dataclass
class Case:
    """One run of a subject.

    Attributes:
        sizes: as its source lists them.
        arrays: likewise, each with whether something stands there before.
        expected: what some of the arrays hold in the end, by their place.
    """

    sizes: list[int]
    arrays: list[tuple[Array, bool]] = field(default_factory=list)
    expected: dict[int, Array] = field(default_factory=dict)

    def give(self, array: Array, right: Array | None = None) -> Array:
        """Add an array that is read; ``right`` is what it holds in the end."""
        return self._add(array, True, right)

    def make(self, count: int, kind: type, right: Array | None = None) -> Array:
        """Add an array of NaNs that counts as not written."""
        return self._add(_with_room(np.full(count, np.nan, kind)), False, right)

    def _add(self, array: Array, ready: bool, right: Array | None) -> Array:
        if right is not None:
            self.expected[len(self.arrays)] = right
        self.arrays.append((array, ready))
        return array


def _with_room(values: Array, offset: int = 0) -> Array:
    """A copy; AddressSanitizer watches the end of the allocation, else there is room behind it."""
    room = 0 if "libasan" in os.environ.get("LD_PRELOAD", "") else 64
    memory = np.empty(offset + values.size + room, values.dtype)
    array = memory[offset : offset + values.size]
    array[:] = values
    return array


def _random(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def _rows(samples: int, features: int, stride: int) -> tuple[Array, Array]:
    """A matrix whose rows lie apart as memory, and in float64."""
    memory = _with_room(_random(samples, stride).ravel()[: (samples - 1) * stride + features])
    rows = np.lib.stride_tricks.as_strided(memory, (samples, features), (4 * stride, 4))
    return memory, rows.astype(np.float64)


def _moments() -> Iterator[Case]:
    for samples, features, stride, lanes in [(70, 1001, 1004, 32), (37, 201, 204, 8)]:
        case = Case([samples, features, stride, lanes])
        memory, rows = _rows(samples, features, stride)
        mean = rows.mean(0)
        case.give(memory)
        case.make(features, np.float32, mean)
        case.make(features, np.float32, rows.var(0, ddof=1))
        case.make(4 * samples, np.float64)
        case.make(samples, np.float64, (rows**2).sum(1))
        case.make(samples, np.float64, rows @ mean)
        yield case


def _stepped(param: Array, sums: Array, grad: Array) -> tuple[Array, Array]:
    """Parameter and accumulator after AdaGrad's step, of the scalars in subject.h."""
    direction = grad + WEIGHT_DECAY * param.astype(np.float64)
    total = sums + direction**2
    return param - LR * direction / (np.sqrt(total) + EPS), total


def _batch_step() -> Iterator[Case]:
    # Of the second case the parameters begin at an address that is no multiple of 16.
    for samples, features, stride, lanes, offset in [(70, 1001, 1004, 32, 0), (37, 201, 204, 8, 1)]:
        case = Case([samples, features, stride, lanes])
        memory, rows = _rows(samples, features, stride)
        case.give(memory)
        case.make(features, np.float32, rows.mean(0))
        case.make(features, np.float32, rows.var(0, ddof=1))
        case.make(2 * samples, np.float64)
        case.make(samples, np.float64, (rows**2).sum(1))
        param, sums = (
            _with_room(_random(features), offset),
            _with_room(_random(1, features)[0] ** 2),
        )
        after = _stepped(param, sums, rows.mean(0))
        case.give(param, after[0])
        case.give(sums, after[1])
        yield case


def _groups() -> Iterator[Case]:
    for samples, features, stride, lanes, each in [(70, 1001, 1004, 32, 40), (37, 201, 204, 8, 20)]:
        case = Case([samples, features, stride, lanes, each])
        memory, rows = _rows(samples, features, stride)
        mean = rows.mean(0)
        case.give(memory)
        for _ in range(2):
            case.make((samples + each - 1) // each * stride, np.float32)
        case.make(features, np.float32, mean)
        case.make(features, np.float32, rows.var(0, ddof=1))
        case.make(4 * samples, np.float64)
        case.make(samples, np.float64, (rows**2).sum(1))
        case.make(samples, np.float64, rows @ mean)
        param, sums = _with_room(_random(features)), _with_room(_random(1, features)[0] ** 2)
        after = _stepped(param, sums, mean)
        case.give(param, after[0])
        case.give(sums, after[1])
        yield case


def _accumulate() -> Iterator[Case]:
    for rows_in_all, features, stride, lanes, first in [
        (70, 1001, 1004, 32, 31),
        (37, 201, 204, 8, 10),
    ]:
        case = Case([rows_in_all, features, stride, lanes, first])
        memory, rows = _rows(rows_in_all, features, stride)
        case.give(memory)
        case.make(features, np.float32, rows.sum(0))
        case.make(features, np.float32, rows.var(0) * rows_in_all)
        case.make(2 * rows_in_all, np.float64)
        case.make(rows_in_all, np.float64, (rows**2).sum(1))
        yield case


def _sum_partials() -> Iterator[Case]:
    case = Case([70, 45])
    partials = _with_room(_random(70, 45).ravel().astype(np.float64))
    case.give(partials)
    case.make(45, np.float64, partials.reshape(70, 45).sum(0))
    yield case


def _tensors(
    shapes: list[tuple[int, int, int]], found: bool
) -> tuple[Case, list[tuple[Array, Array]]]:
    """Tensors of rows x columns, one of the three arrays of each at an odd address; a case.

    Also, of each tensor, its parameters and its gradients in float64, both as rows.
    """
    case = Case([len(shapes), int(found)])
    case.give(np.array([float(found)], np.float32))
    known = []
    for number, (rows, columns, odd) in enumerate(shapes):
        case.sizes += [rows * columns, rows]
        param, grad = _random(number + 1, rows * columns)[0], _random(number + 9, rows * columns)[0]
        case.give(_with_room(param, int(odd == 0)))
        case.give(_with_room(grad, int(odd == 1)))
        case.give(_with_room(_random(number + 5, rows * columns)[0] ** 2, int(odd == 2)))
        shape = rows, columns
        known.append((param.reshape(shape), grad.reshape(shape) / np.float64(GRAD_SCALE)))
    return case, known


def _lists(shapes: list[tuple[int, int, int]]) -> Iterator[tuple[Case, list[tuple[Array, Array]]]]:
    """Where an overflow was found, nothing is written."""
    for found in (False, True):
        yield _tensors(shapes, found)


def _adagrad_step() -> Iterator[Case]:
    for case, known in _lists([(1, 4099, -1), (1, 131, 2), (1, 7, -1)]):
        for tensor, (param, grad) in enumerate(known):
            sums = case.arrays[3 * tensor + 3][0]
            after = _stepped(param[0], sums, grad[0]) if case.sizes[1] == 0 else (param[0], sums)
            case.expected[3 * tensor + 1] = after[0]
            case.expected[3 * tensor + 3] = after[1].copy()
        case.make(2, np.float64)
        case.make(1, np.float64, np.array([sum((grad**2).sum() for _, grad in known)]))
        yield case


def _adagrad_norm() -> Iterator[Case]:
    for case, known in _lists([(1, 4099, -1), (1, 131, 1), (1, 7, 0)]):
        writes = case.sizes[1] == 0
        ways = [grad + WEIGHT_DECAY * param.astype(np.float64) for param, grad in known]
        moved, norm = sum((way**2).sum() for way in ways), sum((g**2).sum() for _, g in known)
        total = 5.0 + moved
        step = LR / (np.sqrt(total) + EPS)
        for tensor, ((param, _), way) in enumerate(zip(known, ways, strict=True)):
            case.expected[3 * tensor + 1] = (param - step * way if writes else param)[0]
        case.make(4, np.float64)
        case.make(2, np.float64, np.array([moved, norm]))
        case.give(np.array([5.0]), np.array([total if writes else 5.0]))
        case.make(1, np.float64, np.array([norm]))
        case.make(1, np.float32, np.array([step]))
        yield case


def _adagrad_norm_rows() -> Iterator[Case]:
    # Rows of a thread, of a warp, of a block; each kind of them for more than one piece.
    for case, known in _lists([(300, 3, -1), (13, 40, 1), (3, 2100, -1)]):
        for tensor, (param, grad) in enumerate(known):
            way = grad + WEIGHT_DECAY * param.astype(np.float64)
            sums = _random(1, len(param))[0].astype(np.float64) ** 2
            case.arrays[3 * tensor + 3] = (sums, True)
            total, after = sums.copy(), param
            if case.sizes[1] == 0:
                total = sums + (way**2).sum(1)
                after = param - (LR / (np.sqrt(total) + EPS))[:, None] * way
            case.expected[3 * tensor + 1] = after.ravel()
            case.expected[3 * tensor + 3] = total
        case.make(2, np.float64)
        case.make(1, np.float64, np.array([sum((grad**2).sum() for _, grad in known)]))
        yield case


#: By the name of the source in ``subjects``.
SUBJECTS: dict[str, Callable[[], Iterator[Case]]] = {
    "moments": _moments,
    "batch_step": _batch_step,
    "groups": _groups,
    "accumulate": _accumulate,
    "sum_partials": _sum_partials,
    "adagrad_step": _adagrad_step,
    "adagrad_norm": _adagrad_norm,
    "adagrad_norm_rows": _adagrad_norm_rows,
}
