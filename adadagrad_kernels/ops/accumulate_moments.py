"""A chunk of per-sample gradients added to running sums, in one read of the chunk."""

from __future__ import annotations

import torch
from torch import Tensor

from adadagrad_kernels import backends
from adadagrad_kernels.checks import (
    ACCUMULATION_DTYPES,
    check_per_sample_grads,
    require_disjoint,
    require_no_graph,
    require_plain,
)
from adadagrad_kernels.ops._library import register


def accumulate_moments_(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    *,
    samples: int,
) -> None:
    r"""Add some samples' gradients to the sums of those before them.

    With :math:`n` samples in ``sum`` :math:`S` and ``squares`` :math:`Q`, and :math:`r` more rows
    :math:`h_i` whose mean is :math:`m`,

    .. math::
        Q \leftarrow Q + \sum_i (h_i - m)^2 + \frac{n r}{n + r} \Bigl(m - \frac{S}{n}\Bigr)^2,
        \qquad S \leftarrow S + \sum_i h_i, \qquad s_i = \lVert h_i \rVert^2,

    so that after all chunks S is the sum of all rows and Q the sum of squared deviations from their
    mean (Chan, Golub, LeVeque 1983): ``batch_moments`` of rows that never exist at the same time.
    The chunk is read once.

    Args:
        sum: S ``[features]``, updated in place; float64 for a float64 chunk, else float32.
        squares: Q, of the shape and dtype of ``sum``, updated in place; None where no variance is
            wanted.
        sq_norms: where the s_i go, ``[rows]``, float64.
        chunk: the rows h_i ``[rows, features]`` in float32, bfloat16, float16 or float64. Rows may
            be any distance apart; the elements of a row are adjacent.
        samples: n; with 0 S and Q are overwritten, whatever they hold.

    Raises:
        ValueError: for tensors of other shapes, dtypes, devices or layouts than these, that
            overlap, or that require grad outside no_grad. Nothing has been written then.

    Example:
        >>> import torch
        >>> from adadagrad_kernels.ops import accumulate_moments_
        >>> total, squares, sq_norms = torch.empty(2), torch.empty(2), torch.empty(4).double()
        >>> rows = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0], [7.0, 2.0]])
        >>> accumulate_moments_(total, squares, sq_norms[:2], rows[:2], samples=0)
        >>> accumulate_moments_(total, squares, sq_norms[2:], rows[2:], samples=2)
        >>> total, squares, sq_norms.tolist()
        (tensor([16.,  8.]), tensor([20.,  0.]), [5.0, 13.0, 29.0, 53.0])
    """
    if torch.compiler.is_compiling():
        _operator(sum, squares, sq_norms, chunk, samples)
    else:
        _run(sum, squares, sq_norms, chunk, samples)


def _run(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    check_per_sample_grads(chunk, variance=False, name="chunk")
    if samples < 0:
        raise ValueError(f"samples must be 0 or more, got {samples}")
    rows, features = chunk.shape
    kind = ACCUMULATION_DTYPES[chunk.dtype]
    written = {"sum": (sum, features, kind), "sq_norms": (sq_norms, rows, torch.float64)}
    if squares is not None:
        written["squares"] = (squares, features, kind)
    for name, (tensor, size, dtype) in written.items():
        require_plain(name, tensor)
        require_no_graph(name, tensor)
        wrong = tensor.shape != (size,) or tensor.dtype != dtype or tensor.device != chunk.device
        if wrong or not tensor.is_contiguous():
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}, {tensor.dtype}, on {tensor.device}, with strides"
                f" {tensor.stride()}; accepted is a contiguous ({size},), {dtype}, on "
                f"{chunk.device}, for a chunk of shape {tuple(chunk.shape)} and {chunk.dtype}"
            )
    tensors = [("chunk", chunk), *((name, each[0]) for name, each in written.items())]
    for place, (name, tensor) in enumerate(tensors):
        for other_name, other in tensors[place + 1 :]:
            require_disjoint(name, tensor, other_name, other)
    backend = backends.select(chunk.device, chunk.dtype, "accumulate_moments_")
    backend.accumulate_moments_(sum, squares, sq_norms, chunk, samples)


def _fake(
    sum: Tensor,
    squares: Tensor | None,
    sq_norms: Tensor,
    chunk: Tensor,
    samples: int,
) -> None:
    return None


_operator = register(
    "accumulate_moments_(Tensor(a!) sum, Tensor(b!)? squares, Tensor(c!) sq_norms, Tensor chunk, "
    "SymInt samples) -> ()",
    _run,
    _fake,
)
