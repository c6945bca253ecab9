"""AdaGrad with a norm as its accumulator: one number for all tensors, or one for every row.

    d = ±g / grad_scale + weight_decay · w,  v += |d|²,  w -= lr / (√v + eps) · d

Traffic per element in float32: 4 bytes for the norm, 8 with weight decay, and 12 for the update;
half of that in the narrow types. See `_norm_whole.py` and `_norm_rows.py` for the kernels. Squares
are summed in float32 within a tile and in float64 from there on, in the order of their places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.graph import increment_version

from adadagrad_kernels.backends.outputs import sq_norm
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.triton._launch import launch
from adadagrad_kernels.backends.triton.kernels import _norm_rows, _norm_whole
from adadagrad_kernels.backends.triton.kernels._lists import aligned, batches, code, padded
from adadagrad_kernels.backends.triton.kernels._sums import add_up
from adadagrad_kernels.backends.triton.kernels._update import decay_or_none, plain, scale_or_none

#: Elements and warps of a program where tensors are taken as they lie.
ELEMENTS, WARPS = 2048, 4
#: Rows of a tile by its columns, for rows up to that length; the last for all longer ones.
TILES = {16: 128, 128: 16, 512: 4}
#: Rows of a program of `row_accumulate_kernel`.
ACCUMULATED = 128


class _Settings(NamedTuple):
    """A rule as the kernels take them."""

    lr: object
    lr_in_memory: bool
    eps: float
    weight_decay: float | None
    maximize: bool
    grad_scale: object
    scale_in_memory: bool
    found_inf: Tensor | None

    @property
    def constants(self) -> dict[str, object]:
        return {"MAXIMIZE": self.maximize, "SCALE_IN_MEMORY": self.scale_in_memory}


class _Item(NamedTuple):
    """A tensor that has elements, as rows and columns."""

    param: Tensor
    grad: Tensor
    accumulator: Tensor
    rows: int
    columns: int

    def size(self) -> int:
        return self.param.numel()


def adagrad_norm_step_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    accumulators: Sequence[Tensor],
    row_wise: bool,
    rule: AdagradRule,
) -> Tensor:
    """See `backends.reference.adagrad_norm_step_`."""
    if not params:
        return sq_norm("cpu", 0.0)
    settings = _Settings(
        *plain(rule.lr),
        float(rule.eps),
        decay_or_none(rule.weight_decay),
        rule.maximize,
        *scale_or_none(rule.grad_scale),
        rule.found_inf,
    )
    items = []
    for index, (param, grad) in enumerate(zip(params, grads, strict=True)):
        rows = param.shape[0] if row_wise and param.dim() else 1
        if param.numel():
            accumulator = accumulators[index if row_wise else 0]
            items.append(_Item(param, grad, accumulator, rows, param.numel() // rows))
    if not items:
        return sq_norm(params[0].device, 0.0)
    norm = _by_rows(items, settings) if row_wise else _in_all(items, settings)
    increment_version([*params, *accumulators])
    return norm


def _shares(count: int, settings: _Settings, device: torch.device) -> Tensor:
    """Places for shares of the gradient's squares, and of the direction's where those differ."""
    sums = 1 if settings.weight_decay is None else 2
    return torch.empty((sums, count), dtype=torch.float32, device=device)


def _in_all(items: list[_Item], settings: _Settings) -> Tensor:
    device = items[0].param.device
    groups = batches(
        items, lambda item: (item.param.dtype, *aligned(item.param, item.grad)), _Item.size
    )
    programs = [sum(triton.cdiv(item.size(), ELEMENTS) for item in batch) for batch in groups]
    lists = [
        (
            padded(item.param for item in batch),
            padded(item.grad for item in batch),
            padded((code(item.size()) for item in batch), code(0)),
        )
        for batch in groups
    ]
    constants = {"ELEMENTS": ELEMENTS, **settings.constants}
    shares = _shares(sum(programs), settings, device)
    norms, moves = (*shares, None)[:2]
    first = 0
    for tensors, count in zip(lists, programs, strict=True):
        arguments = (*tensors, norms, moves, first, settings.weight_decay, settings.grad_scale)
        launch(_norm_whole.squares_kernel, (count,), arguments, constants, WARPS)
        first += count
    sums = add_up(shares)
    step = torch.empty((), dtype=torch.float32, device=device)
    launch(
        _norm_whole.accumulate_kernel,
        (1,),
        (sums, items[0].accumulator, step, settings.lr, settings.eps, settings.found_inf),
        {"LAST": len(sums) - 1, "LR_IN_MEMORY": settings.lr_in_memory},
        num_warps=1,
    )
    for tensors, count in zip(lists, programs, strict=True):
        launch(
            _norm_whole.move_kernel,
            (count,),
            (*tensors, step, settings.weight_decay, settings.grad_scale, settings.found_inf),
            constants,
            WARPS,
        )
    return sums[0]


def _tile_columns(item: _Item) -> int:
    return next((columns for columns in TILES if item.columns <= columns), max(TILES))


def _vector(item: _Item) -> int:
    """Elements in 16 bytes where all rows begin and end at multiples of 16 bytes, otherwise one."""
    vector = 16 // item.param.element_size()
    return 1 if item.columns % vector else vector


class _Batch(NamedTuple):
    """Items of one launch, where their shares and rows begin, and how many programs they are."""

    items: list[_Item]
    tile: dict[str, int]
    first_share: int
    first_row: int
    programs: int
    row_programs: int

    def tensors(self) -> tuple[tuple[object, ...], ...]:
        return padded(item.param for item in self.items), padded(item.grad for item in self.items)

    def sizes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return (
            padded((code(item.rows) for item in self.items), code(0)),
            padded((code(item.columns) for item in self.items), code(0)),
        )


def _lay_out(items: list[_Item]) -> tuple[list[_Batch], int, int]:
    """Batches of rows, and the numbers of shares and of rows in all."""
    groups = batches(
        items,
        lambda item: (
            item.param.dtype,
            _tile_columns(item),
            _vector(item),
            *aligned(item.param, item.grad, item.accumulator),
        ),
        _Item.size,
    )
    result, shares, rows = [], 0, 0
    for batch in groups:
        columns = _tile_columns(batch[0])
        tile = {"ROWS": TILES[columns], "COLUMNS": columns, "VECTOR": _vector(batch[0])}
        strips = [triton.cdiv(item.columns, columns) for item in batch]
        blocks = [triton.cdiv(item.rows, tile["ROWS"]) for item in batch]
        programs = sum(s * b for s, b in zip(strips, blocks, strict=True))
        row_programs = sum(triton.cdiv(item.rows, ACCUMULATED) for item in batch)
        result.append(_Batch(batch, tile, shares, rows, programs, row_programs))
        shares += sum(s * item.rows for s, item in zip(strips, batch, strict=True))
        rows += sum(item.rows for item in batch)
    return result, shares, rows


def _by_rows(items: list[_Item], settings: _Settings) -> Tensor:
    device = items[0].param.device
    layout, count, rows = _lay_out(items)
    shares = _shares(count, settings, device)
    norms, moves = (*shares, None)[:2]
    totals = torch.empty((1, rows), dtype=torch.float64, device=device)
    steps = torch.empty(rows, dtype=torch.float32, device=device)
    for batch in layout:
        sizes = batch.sizes()
        decay_and_scale = (settings.weight_decay, settings.grad_scale)
        constants = {**batch.tile, **settings.constants}
        launch(
            _norm_rows.row_squares_kernel,
            (batch.programs,),
            (*batch.tensors(), *sizes, norms, moves, batch.first_share, *decay_and_scale),
            constants,
            WARPS,
        )
        launch(
            _norm_rows.row_accumulate_kernel,
            (batch.row_programs,),
            (padded(item.accumulator for item in batch.items), *sizes, norms, moves, totals, steps,
             batch.first_share, batch.first_row, settings.lr, settings.eps, settings.found_inf),
            {"ROWS": ACCUMULATED, "COLUMNS": batch.tile["COLUMNS"],
             "LR_IN_MEMORY": settings.lr_in_memory},
            WARPS,
        )  # fmt: skip
        launch(
            _norm_rows.row_move_kernel,
            (batch.programs,),
            (
                *batch.tensors(),
                *sizes,
                steps,
                batch.first_row,
                *decay_and_scale,
                settings.found_inf,
            ),
            constants,
            WARPS,
        )
    return add_up(totals)[0]
