"""How `batch_moments` and `batch_adagrad_step_` cut G, and the launches they are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from adadagrad_kernels.backends.outputs import BatchMoments
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels import _columns
from adadagrad_kernels.backends.triton.kernels._sums import finish
from adadagrad_kernels.backends.triton.kernels._update import decay_or_none, plain

#: The most rows that are held whole, and by the number of rows (the next power of two, at least
#: the first) the columns and warps of a tile that holds them. A thread has 64 elements, which
#: leaves registers for several programs on a multiprocessor: one loads while others compute. Tall
#: tiles are larger, so that their shares of norms and products stay small beside them; in the
#: narrow types they need more than 128 registers from sm_100 on, and only one program fits there.
TALLEST = 256
WHOLE = {16: (512, 4), 32: (256, 4), 64: (128, 4), 128: (128, 8), 256: (64, 8)}
#: Rows at a time, columns and warps where rows are cut; the second for G of few columns.
CHUNK = {256: (32, 4), 64: (128, 4)}
#: Rows of a part: at least so many, or its means would be more traffic than they are worth ...
FEWEST_ROWS = 256
#: ... and no more parts than give every multiprocessor some programs ...
PROGRAMS = 1024
#: ... but at most so many rows, or a sum's rounding would grow with them.
MOST_ROWS = 2048
#: Parts merged at a time, columns and warps of `merge_kernel`.
MERGED, MERGED_COLUMNS, MERGED_WARPS = 16, 128, 4


class Step(NamedTuple):
    """What an update along the mean needs beside G."""

    param: Tensor
    state_sum: Tensor
    rule: AdagradRule


def measure(grads: Tensor, variance: bool, inner_products: bool, step: Step | None) -> BatchMoments:
    """Every statistic of G, and the step along its mean where there is one to take."""
    samples, features = grads.shape
    outputs = BatchMoments.empty(grads, variance, inner_products)
    if features == 0:
        for output in _by_sample(outputs):
            output.zero_()
    elif samples <= TALLEST:
        _whole(grads, outputs, step)
    else:
        _cut(grads, outputs, step)
    return outputs


def _whole(grads: Tensor, outputs: BatchMoments, step: Step | None) -> None:
    samples, features = grads.shape
    rows = max(min(WHOLE), triton.next_power_of_2(samples))
    columns, warps = WHOLE[rows]
    tiles = triton.cdiv(features, columns)
    shares = _shares(tiles, outputs)
    norms, products = (*shares, None)[:2]
    arguments, constants = _step_arguments(step)
    launch(
        _columns.whole_kernel,
        (tiles,),
        (*_matrix(grads), outputs.mean, outputs.variance, norms, products, *arguments),
        {"ROWS": rows, "COLUMNS": columns, "VECTOR": _vector(grads), **constants},
        warps,
    )
    finish(shares, _by_sample(outputs))


def _cut(grads: Tensor, outputs: BatchMoments, step: Step | None) -> None:
    samples, features = grads.shape
    columns = 256 if features > 64 else 64
    rows, warps = CHUNK[columns]
    tiles = triton.cdiv(features, columns)
    parts = min(PROGRAMS // tiles, triton.cdiv(samples, FEWEST_ROWS))
    parts = max(parts, triton.cdiv(samples, MOST_ROWS))
    rows_each = rows * triton.cdiv(samples, rows * parts)
    parts = triton.cdiv(samples, rows_each)
    vector = _vector(grads)
    mean, spread = outputs.mean, outputs.variance
    part_means = mean.new_empty((parts, features))
    part_squares = None if spread is None else torch.empty_like(part_means)
    shares = _shares(tiles, outputs)
    tile = {"ROWS": rows, "COLUMNS": columns, "VECTOR": vector}
    pooled = (*_matrix(grads), rows_each, part_means, part_squares, shares[0])
    launch(_columns.pool_kernel, (tiles, parts), pooled, tile, warps)
    arguments, constants = _step_arguments(step)
    launch(
        _columns.merge_kernel,
        (triton.cdiv(features, MERGED_COLUMNS),),
        (samples, features, parts, rows_each, part_means, part_squares, mean,
         spread, *arguments),
        {"PARTS": MERGED, "COLUMNS": MERGED_COLUMNS, "VECTOR": vector, **constants},
        MERGED_WARPS,
    )  # fmt: skip
    if len(shares) == 2:
        second = (*_matrix(grads), rows_each, mean, shares[1])
        launch(_columns.products_kernel, (tiles, parts), second, tile, warps)
    finish(shares, _by_sample(outputs))


def _matrix(grads: Tensor) -> tuple[Tensor, int, int, int]:
    samples, features = grads.shape
    return grads, grads.stride(0), samples, features


def _vector(grads: Tensor) -> int:
    """Elements in 16 bytes where rows begin and end at multiples of 16 bytes, otherwise one.

    The address itself is left to Triton, which compiles one kernel for multiples of 16 bytes and
    one for all others.
    """
    vector = 16 // grads.element_size()
    return vector if grads.stride(0) % vector == grads.shape[1] % vector == 0 else 1


def _by_sample(outputs: BatchMoments) -> tuple[Tensor, ...]:
    """The norms, and the products where they are wanted."""
    norms, products = outputs.sq_norms, outputs.inner_products
    return (norms,) if products is None else (norms, products)


def _shares(tiles: int, outputs: BatchMoments) -> Tensor:
    """A place for every tile's share of what each sample has."""
    norms = outputs.sq_norms
    shape = (len(_by_sample(outputs)), tiles, len(norms))
    return torch.empty(shape, dtype=torch.float32, device=norms.device)


def _step_arguments(step: Step | None) -> tuple[tuple[object, ...], dict[str, object]]:
    """The last arguments of the kernels that update, and their constants."""
    if step is None:
        return (None,) * 5, {"MAXIMIZE": False, "LR_IN_MEMORY": False}
    rule = step.rule
    lr, in_memory = plain(rule.lr)
    arguments = (step.param, step.state_sum, lr, float(rule.eps), decay_or_none(rule.weight_decay))
    return arguments, {"MAXIMIZE": rule.maximize, "LR_IN_MEMORY": in_memory}
