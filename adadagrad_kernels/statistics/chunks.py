"""The variance between the mean gradients of chunks of a batch, over all ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adadagrad_kernels.ranks import Agreement, Ranks
from adadagrad_kernels.statistics.measuring.over_ranks import (
    mark_of,
    require_reduced,
    require_same_parameters,
)
from adadagrad_kernels.statistics.record import GradientStatistics
from adadagrad_kernels.statistics.sums import cosine_of_parts, on_host, squared_norm


class Chunks(NamedTuple):
    """The chunks of one rank, whose gradients h_c add up to its own.

    Attributes:
        number: of chunks.
        samples: of all.
        weighted: the sum of |h_c|^2 / m_c.
    """

    number: int
    samples: int
    weighted: float

    @classmethod
    def of(cls, samples: Sequence[int], sq_norms: Sequence[Tensor]) -> Chunks:
        """From their sizes and squared norms."""
        norms = torch.stack(list(sq_norms)).tolist() if sq_norms else []
        weighted = math.fsum(norm / size for norm, size in zip(norms, samples, strict=True))
        return cls(len(samples), sum(samples), weighted)


def chunks_over_ranks(
    ranks: Ranks,
    own: Chunks,
    parameters: Sequence[Tensor],
    grad_scale: float,
    error: Exception | None = None,
) -> GradientStatistics:
    r"""The record with the variance over the chunks of all ranks, unbiased for any sizes.

    With n samples, :math:`g_c = n h_c / (D m_c)` the mean gradients of C chunks of :math:`m_c`,

    .. math:: V = \frac{1}{C-1} \Bigl( \sum_c m_c \lVert g_c \rVert^2 - n N \Bigr).

    Args:
        ranks: the ranks that share the batch.
        own: the chunks of this rank.
        parameters: of the model; the gradients of those in training are reduced.
        grad_scale: factor by which the losses were multiplied.
        error: why this rank has no chunks, or None.

    Raises:
        ValueError: for gradients or parameters that differ between ranks, or fewer than two chunks.
    """
    signal = mark = 0.0
    try:
        grads = [p.grad for p in parameters if p.requires_grad and p.grad is not None]
        (signal,), (mark,) = on_host([squared_norm(grads), mark_of(parameters)])
    except Exception as problem:  # the others wait: it goes to them with the numbers
        error = error or problem
    rows = ranks.gather([*map(float, own), signal, mark], parameters[0].device, error)
    signal = require_reduced([row[3] for row in rows]) / (grad_scale * grad_scale)
    require_same_parameters([row[4] for row in rows], parameters)
    count, samples = (int(sum(row[place] for row in rows)) for place in (0, 1))
    if count < 2:
        raise ValueError(
            f"the variance between gradients needs at least two of them, got {count} on all ranks; "
            "split the batch, or measure with layer_statistics"
        )
    factor = samples / (ranks.divisor * grad_scale)
    between = factor * factor * math.fsum(row[2] for row in rows)
    cosine = None
    sizes = [row[1] for row in rows if row[0]]
    if count == 2 == len(sizes) and sizes[0] == sizes[1]:
        parts = [row[2] * row[1] * (factor / samples) ** 2 for row in rows if row[0]]
        cosine = cosine_of_parts(signal, *parts)
    return record_between(count, samples, between, signal, ranks.agreement, cosine)


def record_between(
    count: int,
    samples: int,
    between: float,
    signal: float,
    agreement: Agreement | None,
    cosine: float | None = None,
) -> GradientStatistics:
    r"""The record whose variance is the one between the mean gradients of chunks.

    Args:
        count: C, at least 2.
        samples: n.
        between: :math:`\sum_c m_c \lVert g_c \rVert^2`.
        signal: N.
        agreement: of the ranks.
        cosine: of the halves, where there are two.
    """
    variance = (between - samples * signal) / (count - 1)
    return GradientStatistics(
        batch_size=samples,
        mean_sq_norm=signal,
        sum_sq_norms=(samples - 1) * variance + samples * signal,
        halves_cosine=cosine,
        agreement=agreement,
    )
