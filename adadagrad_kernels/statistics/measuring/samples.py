"""Inputs without rows for the samples, such as positions, which broadcast over them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

_WAYS_OUT = (
    "every layer must have the samples in its first dimension, or a single row for all of them. "
    "Ways out: keep the batch first, [samples, ...], and do not merge it with other dimensions; "
    "pass what all samples share as [1, ...]; or measure with PerSampleGradients"
)


def require_samples(layer: str, rows: int, samples: int, in_call: int | None) -> None:
    """Refuse rows that are not the samples.

    Args:
        layer: whose input has them.
        rows: of the input.
        samples: of the micro-batch.
        in_call: of the model's call, which may be another than the first of the micro-batch.

    Raises:
        ValueError: naming the layer.
    """
    if rows not in (1, samples) or (rows == in_call == 1 != samples):
        raise ValueError(
            f"{layer} has an input of {rows} rows in a batch of {samples} samples; {_WAYS_OUT}. "
            "Forward passes of other sizes need a backward pass each, or reset() in between where "
            "they are not to count"
        )


def require_growth(layer: str, rows: int, unbatched: Collection[str]) -> None:
    """Refuse rows that are as many as the samples by chance.

    Raises:
        ValueError: naming the layer.
    """
    if rows != 1 and layer in unbatched:
        raise ValueError(
            f"{layer} has an input of {rows} rows whatever the number of samples; {_WAYS_OUT}"
        )


def require_dimensions(layer: str, given: Tensor, known: Mapping[str, Collection[int]]) -> None:
    """Refuse a dimension too many, from positions that have got their samples already.

    Raises:
        ValueError: naming the layer.
    """
    expected = known.get(layer)
    if expected and given.dim() not in expected:
        raise ValueError(
            f"{layer} has an input of {given.dim()} dimensions, in a model that looks up positions "
            "without a dimension for the samples and adds one afterwards. While it is measured an "
            "Embedding gives [samples, positions, features] for them. Way out: pass them to the "
            "embedding as [1, positions], and leave out the unsqueeze(0) behind it"
        )


def only_first(grad: Tensor) -> bool:
    """Whether but one of the samples that share an input has a gradient."""
    return len(grad) > 1 and bool(grad[0].any()) and not bool(grad[1:].any())


def picked(layer: str) -> str:
    """The message for that."""
    return (
        f"{layer} has an input that all samples share, and the model takes a single row of its "
        "output, so that their gradients cannot be told apart. Way out: let it broadcast over the "
        "samples, without indexing its first dimension"
    )
