"""Checks that the rows of a layer's input are the samples, and the messages where they are not."""

from __future__ import annotations

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics.measuring.rows import Rows

#: The way out that remains where the layers cannot measure.
OTHER_SOURCES = (
    "measure with PerSampleGradients, or with MicroBatchGradients where that cannot run the model"
)
_WAYS_OUT = (
    "every layer must have the samples in its first dimension, or a single row for all of them. "
    "Ways out: keep the batch first, [samples, ...], and do not merge it with other dimensions; "
    f"pass what all samples share as [1, ...]; or {OTHER_SOURCES}"
)


def require_own_rows(layer: str, rows: int, samples: int, kind: Rows) -> None:
    """Refuse inputs in which a sample has no row, or a number of rows that depends on its values.

    Raises:
        UnsupportedModelError: naming the layer.
    """
    if kind is Rows.ROUTED:
        raise UnsupportedModelError(
            f"{layer} has an input whose number of rows depends on the inputs, such as tokens "
            "routed to experts or picked by a mask, so a row is not a sample. Ways out: run the "
            "layer on all tokens, [samples, tokens, ...], and weight its output with zeros; or "
            f"{OTHER_SOURCES}"
        )
    elsewhere = kind is Rows.ELSEWHERE or (kind is Rows.SECOND and rows != samples)
    if elsewhere and samples > 1:
        raise UnsupportedModelError(
            f"{layer} has an input whose {rows} rows change with the samples, but are not one "
            f"for each of the {samples}: they are in another dimension, or mixed; {_WAYS_OUT}"
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
            "Forward passes of other sizes need a backward pass each, or reset() in between if "
            "they should not count"
        )


def no_sample_rows_message(layer: str, rows: int) -> str:
    """The message for rows that are not samples, in a layer that knows no other dimensions."""
    return f"{layer} has an input of {rows} rows whatever the number of samples; {_WAYS_OUT}"


def unknown_shares_message(layer: str) -> str:
    """The message for a shared value whose gradient cannot be told apart."""
    return (
        f"{layer} has an output that all samples share, and their contributions to its gradient "
        "cannot be told apart: it reaches the loss without meeting them, whole or in "
        "part, as in a penalty; or through an operation that cannot run for one sample, such "
        "as a compiled graph or a reentrant checkpoint; or rows of a table are looked up by an "
        "index as long as the batch. Ways out: give the layer a row for every sample, such as "
        "positions [samples, positions]; look rows up in an nn.Embedding; take the penalty's "
        f"gradient after statistics(); or {OTHER_SOURCES}"
    )
