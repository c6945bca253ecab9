"""Whether a module mixes samples: its outputs for the others change when one is exchanged."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.measuring.trial import Question, Trial

_TOLERANCE = 1e-3


def first_mixing(one: Trial, two: Trial, count: int, changed: int = 0) -> str | None:
    """The first module whose outputs for other samples have changed."""
    for name, outputs in one.outputs.items():
        if name in two.outputs and not _equal(outputs, two.outputs[name], count, changed):
            return name
    return None


def mixing_message(name: str, question: Question) -> str:
    """The message for a module that mixes samples, or that has them in the second dimension."""
    if _has_time_first(question):
        return (
            f"{name} mixes the rows of a batch, but not its columns: the samples are in the second "
            "dimension, [positions, samples, ...]. Way out: keep the batch first, "
            "[samples, positions, ...], with batch_first=True where a layer takes it"
        )
    return (
        f"{name} mixes the samples of a batch: its output for one of them changes when another "
        "is exchanged, so a sample has no gradient of its own. Ways out: take the operation "
        "across the batch out of the model; or estimate the variance from micro-batches with "
        "MicroBatchGradients"
    )


def _has_time_first(question: Question) -> bool:
    """Whether the model does not mix samples in the second dimension."""
    tensors = question.contents.tensors
    batched = [tensor.dim() > 1 for tensor in tensors]
    columns = {tensor.shape[1] for tensor in tensors if tensor.dim() > 1}
    if len(columns) != 1 or (samples := columns.pop()) < 2:
        return False
    try:
        one = question.run([0, *range(1, samples)], batched, 1)
        two = question.run([1, *range(1, samples)], batched, 1)
    except Exception:  # not so, then
        return False
    pairs = list(zip(one.result, two.result, strict=False))
    return bool(pairs) and all(
        a.dim() > 1 and a.shape[1] == samples and close(a[:, 1:], b[:, 1:]) for a, b in pairs
    )


def _equal(ours: list[Tensor], theirs: list[Tensor], count: int, changed: int) -> bool:
    """Whether all but one sample agree, in any dimension that could be the samples'."""
    start = 0 if changed else 1
    for one, other in zip(ours, theirs, strict=False):
        dimensions = [d for d, size in enumerate(one.shape) if size == count]
        if one.shape != other.shape or 0 not in dimensions:
            continue
        kept = (
            (one.narrow(d, start, count - 1), other.narrow(d, start, count - 1)) for d in dimensions
        )
        if not any(itertools.starmap(close, kept)):
            return False
    return True


def close(one: Tensor, other: Tensor, tolerance: float = _TOLERANCE) -> bool:
    """Whether two tensors are equal up to rounding."""
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    finite = one[one.isfinite()]
    scale = float(finite.abs().amax()) if finite.numel() else 0.0
    close = torch.isclose(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    return bool(close.all())


def require_proportional(one: Trial, other: Trial, count: int, fewer: int) -> None:
    """Refuse outputs whose number of rows is neither constant nor proportional to the samples."""
    for ours, theirs in zip(one.result, other.result, strict=False):
        if not ours.dim() or not theirs.dim():
            continue
        rows = len(ours), len(theirs)
        if rows[0] != rows[1] and rows[0] * fewer != rows[1] * count:
            raise UnsupportedModelError(
                f"the model mixes the samples of a batch: it returns {rows[0]} rows for {count} "
                f"samples and {rows[1]} for {fewer}, as for pairs of them. Ways out: take the "
                "operation across the batch out of the model; or estimate the variance from "
                "micro-batches with MicroBatchGradients"
            )
