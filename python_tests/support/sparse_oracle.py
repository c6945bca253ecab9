"""AdaBatch's step from its definition, sample by sample, in extended precision.

Also how far a result may be from it: a sum over the samples that touch a coordinate, and a handful
of roundings, as tolerances.py has them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adadagrad_kernels.ops import CsrRows, sparse_mean_step_
from support.tolerances import (
    SAFETY,
    Array,
    accumulation_dtype,
    accumulation_epsilon,
    assert_within,
    extended,
    smallest,
    stored_tolerance,
)

Terms = dict[int, list[np.longdouble]]


def terms_of(rows: Tensor | CsrRows) -> tuple[Terms, int]:
    """For each touched column the terms of the samples that touch it; and how many samples."""
    terms: Terms = {}
    samples = list(_samples(rows))
    for sample in samples:
        of_sample: dict[int, np.longdouble] = {}
        for column, value in sample:
            of_sample[column] = of_sample.get(column, np.longdouble(0)) + value
        for column, value in of_sample.items():
            terms.setdefault(column, []).append(value)
    return terms, len(samples)


def _samples(rows: Tensor | CsrRows) -> Iterable[list[tuple[int, np.longdouble]]]:
    if isinstance(rows, Tensor):
        for row in extended(rows):
            yield [(int(column), row[column]) for column in np.flatnonzero(row != 0)]
        return
    starts, columns, values = rows.crow_indices.tolist(), rows.col_indices, extended(rows.values)
    for start, end in itertools.pairwise(starts):
        yield list(zip(columns[start:end].tolist(), values[start:end], strict=True))


def assert_step(
    param: Tensor,
    rows: Tensor | CsrRows,
    *,
    step_: Callable[..., Tensor] = sparse_mean_step_,
    **settings: Any,
) -> list[Tensor]:
    """Run the op on copies, and compare all that it writes and returns with the definition.

    Untouched coordinates must keep their bits. Returns what was written.
    """
    state_sum = settings.pop("state_sum", None)
    after = param.clone()
    total = None if state_sum is None else state_sum.clone()
    sq_norm = step_(after, rows, state_sum=total, **settings)
    d, error, touched = direction(param, rows, **settings)
    chosen = touched.numpy()
    lr, eps = settings["lr"], settings.get("eps", 1e-10)
    epsilon = accumulation_epsilon(param.dtype)
    step, step_error = lr * d, lr * error
    if total is not None:
        before = extended(state_sum).reshape(-1)
        sums = before + d**2
        sums_error = 2 * np.abs(d) * error + SAFETY * epsilon * sums
        floor = stored_tolerance(sums, sums_error, param.dtype)
        assert_within("state_sum", total.view(-1)[touched], sums[chosen], floor[chosen])
        assert torch.equal(total.view(-1)[~touched], state_sum.view(-1)[~touched])
        root = np.sqrt(sums) + eps
        relative = sums_error / np.maximum(2 * sums, np.finfo(np.float64).tiny)
        step, step_error = step / root, step_error / root + np.abs(step / root) * relative
    value = extended(param).reshape(-1) - step
    tolerance = step_error + SAFETY * epsilon * (np.abs(value) + np.abs(step))
    tolerance = stored_tolerance(value, tolerance, param.dtype)
    assert_within("param", after.view(-1)[touched], value[chosen], tolerance[chosen])
    assert torch.equal(after.view(-1)[~touched], param.view(-1)[~touched])
    assert sq_norm.dtype == torch.float64
    wanted, allowed = (d**2).sum(), (2 * np.abs(d) * error + 1e-12 * d**2).sum()
    assert_within("sq_norm", sq_norm, np.asarray(wanted), np.asarray(allowed + 1e-300))
    return [after, sq_norm] if total is None else [after, total, sq_norm]


def direction(
    param: Tensor,
    rows: Tensor | CsrRows,
    mode: str = "adabatch",
    ridge: float = 0.0,
    probabilities: Tensor | None = None,
    offset: Tensor | None = None,
    **_: Any,
) -> tuple[Array, Array, Tensor]:
    """The aggregate d, how far it may be off, and which coordinates are touched."""
    terms, samples = terms_of(rows)
    weight = extended(param).reshape(-1)
    d, error = np.zeros_like(weight), np.zeros_like(weight)
    constant = np.zeros_like(weight) if offset is None else extended(offset)
    decay = np.zeros_like(weight)
    if ridge and probabilities is not None:
        decay = np.longdouble(ridge) / extended(probabilities) * weight
    epsilon = accumulation_epsilon(param.dtype)
    floor = smallest(accumulation_dtype(param.dtype))
    for column, values in terms.items():
        count = len(values)
        by = {"adabatch": count, "mean": samples, "sum": 1}[mode]
        each = constant[column] + decay[column]
        size = np.abs(constant[column]) + np.abs(decay[column])
        d[column] = sum(value + each for value in values) / by
        magnitude = sum(np.abs(value) + size for value in values) / by
        error[column] = SAFETY * (epsilon * (1 + count**0.5) * magnitude + floor)
    touched = torch.zeros(param.numel(), dtype=torch.bool)
    touched[list(terms)] = True
    return d, error, touched
