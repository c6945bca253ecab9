"""Inputs without rows for the samples, such as positions, which broadcast over them."""

from __future__ import annotations

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


def without_samples(layer: str, rows: int) -> str:
    """The message for rows that are no samples, of a layer that knows no other dimensions."""
    return f"{layer} has an input of {rows} rows whatever the number of samples; {_WAYS_OUT}"


def no_shares(layer: str) -> str:
    """The message for a shared value whose gradient cannot be told apart."""
    return (
        f"{layer} has an output that all samples share, and what the samples contribute to its "
        "gradient cannot be told apart: it reaches the loss without meeting them, or through an "
        "operation that cannot be asked for one sample (a compiled graph, a reentrant checkpoint), "
        "or rows of a table are looked up by an index as long as the batch. "
        "Ways out: give the layer a row for every sample, such as positions "
        "[samples, positions]; look rows up in an nn.Embedding; or measure with PerSampleGradients"
    )
