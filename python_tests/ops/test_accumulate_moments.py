"""`accumulate_moments_` against its definition, for every backend, instruction set and dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from support.buffers import guarded, per_sample_grads, taken
from support.oracles import assert_accumulated, shared_case
from support.tolerances import (
    accumulation_dtype,
    accumulation_epsilon,
    assert_within,
    extended,
)
from torch import Tensor

from adadagrad_kernels.ops import accumulate_moments_

# Rows in all, columns, rows of a chunk: around the widths of the vectors and the numbers of rows at
# once; rows shared out among threads, and more rows than one launch takes.
SHAPES = [
    (1, 1, 1), (1, 33, 1), (1, 4099, 1), (2, 0, 1), (2, 7, 1), (2, 1023, 2), (3, 8, 2),
    (3, 4099, 3), (4, 9, 4), (4, 1023, 1), (5, 15, 2), (5, 4099, 5), (7, 16, 3), (7, 17, 7),
    (8, 31, 8), (8, 1023, 5), (9, 1, 4), (9, 4099, 8), (17, 17, 5), (17, 1023, 17), (17, 33, 1),
    (100, 7, 9), (100, 8, 100), (100, 15, 33), (100, 33, 17), (100, 4099, 64), (600, 31, 300),
    (1100, 9, 1050),
]  # fmt: skip
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))


class Sums(NamedTuple):
    """What chunks were added to."""

    sum: Tensor
    squares: Tensor | None
    sq_norms: Tensor


def unwritten(rows: Tensor, squares: bool = True) -> Sums:
    """NaN where the first chunk writes."""
    samples, features = rows.shape
    total = torch.full((features,), torch.nan, dtype=accumulation_dtype(rows.dtype))
    norms = torch.full((samples,), torch.nan, dtype=torch.float64)
    return Sums(total, total.clone() if squares else None, norms)


def accumulate(rows: Tensor, size: int, sums: Sums | None = None) -> Sums:
    """All rows, ``size`` at a time."""
    sums = unwritten(rows) if sums is None else sums
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        accumulate_moments_(sums.sum, sums.squares, sums.sq_norms[part], rows[part], samples=start)
    return sums


def assert_right(actual: Sums, rows: Tensor) -> None:
    assert_accumulated(*actual, rows)


@each_shape
def test_matches_the_definition(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    rows, _ = shared_case(*shape[:2], dtype)
    assert_right(accumulate(rows, shape[2]), rows)


@pytest.mark.parametrize("shape", [(3, 300_001, 2), (40, 20_011, 33)], ids=["wide", "both"])
def test_matches_the_definition_at_larger_shapes(backend: str, shape: tuple[int, int, int]) -> None:
    rows, _ = shared_case(*shape[:2], torch.float32)
    assert_right(accumulate(rows, shape[2]), rows)


@pytest.mark.parametrize("shape", [(1, 9, 1), (9, 4099, 4), (30, 130, 17), (600, 20, 600)])
def test_without_squares(backend: str, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    """Sum and norms have the bits that they have beside squares."""
    rows, _ = shared_case(*shape[:2], dtype)
    alone = accumulate(rows, shape[2], unwritten(rows, squares=False))
    beside = accumulate(rows, shape[2])
    assert_right(alone, rows)
    assert torch.equal(alone.sum, beside.sum)
    assert torch.equal(alone.sq_norms, beside.sq_norms)


@pytest.mark.parametrize("shape", [(7, 1030, 3), (70, 33, 40), (600, 9, 600)])
def test_bits_are_the_same_from_run_to_run(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int]
) -> None:
    rows, _ = shared_case(*shape[:2], dtype)
    for one, other in zip(accumulate(rows, shape[2]), accumulate(rows, shape[2]), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("offset", "padding"), [(1, 0), (0, 1), (3, 5), (4, 4), (8, 61)])
def test_reads_and_writes_only_its_tensors(
    backend: str, dtype: torch.dtype, offset: int, padding: int
) -> None:
    """NaN lies around every tensor, at addresses aligned and not: read it would show."""
    dtype = taken(dtype)
    for shape in ((2, 1, 1), (9, 31, 4), (5, 1030, 5), (70, 33, 64)):
        rows = per_sample_grads(*shape[:2], dtype, padding=padding, offset=offset)
        before = rows.tensor.clone()
        places = [guarded(tensor, offset + k) for k, tensor in enumerate(unwritten(before))]
        sums = accumulate(rows.tensor, shape[2], Sums(*(place.tensor for place in places)))
        assert_right(sums, before)
        for one in (rows, *places):
            one.assert_outside_untouched()
        assert torch.equal(rows.tensor, before)


def test_sum_and_squares_at_addresses_of_their_own(backend: str) -> None:
    """One aligned to 16 bytes and the other not."""
    rows, _ = shared_case(9, 1023, torch.float32)
    for offsets in ((0, 1), (1, 0), (2, 2)):
        places = [guarded(tensor, offset) for tensor, offset in
                  zip(unwritten(rows), (*offsets, 0), strict=True)]  # fmt: skip
        assert_right(accumulate(rows, 4, Sums(*(place.tensor for place in places))), rows)
        for place in places:
            place.assert_outside_untouched()


def test_one_row_for_all(backend: str) -> None:
    """A row stride of zero."""
    row = per_sample_grads(1, 33, torch.bfloat16).tensor.float()
    sums = accumulate(row.expand(8, 33), 4)
    assert torch.equal(sums.sum, 8 * row[0])
    assert torch.equal(sums.squares, torch.zeros(33))


def test_whole_numbers_are_exact(backend: str, dtype: torch.dtype) -> None:
    """Sums, means and deviations that every type holds."""
    rows = torch.arange(8 * 41).reshape(8, 41).remainder(8).mul(16).to(dtype)
    sums = accumulate(rows, 4)
    assert torch.equal(sums.sum, rows.to(sums.sum.dtype).sum(0))
    assert torch.equal(sums.sq_norms, rows.double().square().sum(1))
    assert sums.squares is not None
    deviations = rows.double() - rows.double().mean(0)
    assert torch.equal(sums.squares.double(), deviations.square().sum(0))


@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(64, 4), (300, 17), (300, 300)], ids=str)
def test_squares_are_of_deviations(backend: str, wide: torch.dtype, shape: tuple[int, int]) -> None:
    """A mean of 1,000 deviations: a difference of squares would keep no digit of float32."""
    generator = torch.Generator().manual_seed(1)
    rows = (1000 + torch.randn(shape[0], 70, generator=generator, dtype=torch.float64)).to(wide)
    sums = accumulate(rows, shape[1])
    assert sums.squares is not None
    expected = ((extended(rows) - extended(rows).mean(0)) ** 2).sum(0)
    close = 2e-3 if wide == torch.float32 else 1e-9
    assert_within("squares", sums.squares, expected, close * expected)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("shape", [(3, 40, 1), (9, 1025, 4), (70, 33, 40)], ids=str)
def test_what_is_not_finite_stays_in_its_column_and_row(
    backend: str, dtype: torch.dtype, value: float, shape: tuple[int, int, int]
) -> None:
    samples, features, size = shape
    for row, column in ((0, 0), (2, 17), (samples - 1, features - 1)):
        clean = per_sample_grads(samples, features, dtype).tensor
        clean[row, column] = 0
        dirty = clean.clone()
        dirty[row, column] = value
        before, after = accumulate(clean, size), accumulate(dirty, size)
        places = (column, column, row)
        for ours, theirs, place in zip(after, before, places, strict=True):
            assert not ours[place].isfinite()
            ours[place] = theirs[place] = 0
            assert torch.equal(ours, theirs)


def test_wide_rows_are_summed_in_float64(backend: str) -> None:
    """A million equal squares: float32 alone would be off by some 10^-5."""
    sums = accumulate(torch.full((2, 1_000_000), 0.1), 2)
    expected = 1_000_000 * float(torch.tensor(0.1).double() ** 2)
    assert abs(sums.sq_norms / expected - 1).max() < 64 * accumulation_epsilon(torch.float32)


def test_narrow_rows_are_summed_as_float32(backend: str) -> None:
    """bfloat16 has 8 bits, in which sums would stop growing at 256; float16 ends at 65,504."""
    assert accumulate(torch.ones(500, 3, dtype=torch.bfloat16), 9).sum.tolist() == [500.0] * 3
    half = torch.full((500, 3), 200.0, dtype=torch.float16)
    assert accumulate(half, 125).sum.tolist() == [100_000.0] * 3


def _tensors() -> dict[str, Tensor]:
    return {
        "sum": torch.ones(6),
        "squares": torch.ones(6),
        "sq_norms": torch.ones(3, dtype=torch.float64),
        "chunk": torch.arange(18.0).view(3, 6),
    }


def _shared(given: dict[str, Tensor]) -> Tensor:
    return given["sum"]


def _first_row(given: dict[str, Tensor]) -> Tensor:
    return given["chunk"][0]


# What is replaced, by what, and what the error says.
REFUSED: dict[str, tuple[str, Callable[[dict[str, Tensor]], object], str]] = {
    "a list": ("chunk", lambda _: [[1.0]], r"chunk must be a torch\.Tensor, got list"),
    "one dimension": ("chunk", lambda _: torch.ones(6), r"chunk must be 2-D .* got shape \(6,\)"),
    "no rows": ("chunk", lambda _: torch.ones(0, 6), r"chunk has shape \(0, 6\), without samples"),
    "integers": ("chunk", lambda _: torch.ones(3, 6).long(), r"chunk has dtype torch\.int64"),
    "columns apart": (
        "chunk",
        lambda _: torch.ones(6, 3).t(),
        "elements of a row must be adjacent",
    ),
    "a graph": ("chunk", lambda t: t["chunk"].clone().requires_grad_(), "chunk requires grad"),
    "no storage": ("chunk", lambda _: torch.ones(3, 6, device="meta"), "chunk has no storage"),
    "a short sum": ("sum", lambda _: torch.ones(5), r"sum is \(5,\).*accepted .* \(6,\)"),
    "a wide sum": ("sum", lambda _: torch.ones(6).double(), r"sum is .*float64.*torch\.float32"),
    "a narrow sum": ("sum", lambda _: torch.ones(6).bfloat16(), r"sum is .*bfloat16.*float32"),
    "a sum with holes": ("sum", lambda _: torch.ones(12)[::2], r"sum is .*strides \(2,\).*contig"),
    "a sum elsewhere": ("sum", lambda _: torch.ones(6, device="meta"), "sum has no storage"),
    "a sum in a graph": ("sum", lambda _: torch.ones(6).requires_grad_(), "sum requires grad"),
    "many squares": ("squares", lambda _: torch.ones(2, 6), r"squares is \(2, 6\).*\(6,\)"),
    "narrow norms": ("sq_norms", lambda _: torch.ones(3), r"sq_norms is .*float32.*float64"),
    "few norms": ("sq_norms", lambda _: torch.ones(2).double(), r"sq_norms is \(2,\).*\(3,\)"),
    "one for both": ("squares", _shared, "sum.*squares|squares.*sum"),
    "a row of the chunk": ("sum", _first_row, "chunk.*sum|sum.*chunk"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_before_anything_is_written(what: str) -> None:
    name, replaced, message = REFUSED[what]
    given: dict[str, object] = dict(_tensors())
    given[name] = replaced(_tensors() | {k: v for k, v in given.items() if isinstance(v, Tensor)})
    real = [t for t in given.values() if isinstance(t, Tensor) and t.device.type == "cpu"]
    before = [(tensor.detach().clone(), tensor._version) for tensor in real]
    with pytest.raises(ValueError, match=message):
        accumulate_moments_(**given, samples=4)
    for tensor, (copy, version) in zip(real, before, strict=True):
        assert torch.equal(tensor.detach(), copy)
        assert tensor._version == version


def test_refuses_fewer_samples_than_none() -> None:
    with pytest.raises(ValueError, match="samples must be 0 or more, got -1"):
        accumulate_moments_(**_tensors(), samples=-1)


def test_a_device_of_another_kind_is_named() -> None:
    """Sums on one device, rows on another."""
    given = _tensors()
    kind = "cuda" if torch.cuda.is_available() else "meta"
    given["sum"] = given["sum"].to(kind)
    with pytest.raises(ValueError, match=f"sum (is .*on {kind}|has no storage)"):
        accumulate_moments_(**given, samples=4)
