"""`batch_moments` against its definition, for every backend, instruction set and dtype."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import oracles
from support.buffers import guarded, per_sample_grads
from support.oracles import assert_moments, shared_case
from support.tolerances import (
    accumulation_dtype,
    accumulation_epsilon,
    assert_within,
    extended,
    mean_tolerance,
)

from adadagrad_kernels import use_backend
from adadagrad_kernels.ops import batch_moments

# Around the widths of the vectors and of the column tiles, and the numbers of rows at once.
SHAPES = [
    (1, 1), (1, 17), (1, 4099), (2, 0), (2, 1), (2, 7), (2, 4099), (3, 8), (5, 9), (5, 1023),
    (8, 15), (8, 4099), (9, 16), (31, 17), (31, 1023), (64, 31), (64, 4099), (100, 33), (130, 9001),
    (300, 200), (1024, 72),
    (513, 1), (513, 33), (513, 1023), (2000, 17), (2000, 200), (5000, 9), (5000, 65),
]  # fmt: skip
LARGE = [(60_000, 10), (1100, 4200), (3, 1_000_000)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_the_definition(backend: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    grads, expected = shared_case(*shape, dtype)
    actual = batch_moments(grads, variance=shape[0] > 1)
    assert_moments(actual, expected)
    assert actual.mean.dtype == accumulation_dtype(dtype)
    assert actual.sq_norms.dtype == torch.float64


@pytest.mark.parametrize("shape", LARGE, ids=["tall", "both", "wide"])
def test_matches_the_definition_at_extreme_shapes(backend: str, shape: tuple[int, int]) -> None:
    grads, expected = shared_case(*shape, torch.float32)
    assert_moments(batch_moments(grads), expected)


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("inner_products", [False, True])
@pytest.mark.parametrize("shape", [(1, 9), (9, 4099), (700, 513), (5000, 33)])
def test_gives_what_was_asked(
    backend: str, shape: tuple[int, int], variance: bool, inner_products: bool
) -> None:
    if variance and shape[0] == 1:
        return
    grads, expected = shared_case(*shape, torch.float32)
    actual = batch_moments(grads, variance=variance, inner_products=inner_products)
    assert (actual.variance is not None) == variance
    assert (actual.inner_products is not None) == inner_products
    assert_moments(actual, expected)


def test_reference_is_a_loop_over_samples() -> None:
    """The package's own definition, number by number in exact rational arithmetic."""
    from fractions import Fraction

    rows = [[Fraction((3 * i + 5 * j) % 7 - 2) + Fraction(i == j, 2) for j in range(5)]
            for i in range(8)]  # fmt: skip
    mean = [sum(column) / 8 for column in zip(*rows, strict=True)]
    variance = [sum((x - m) ** 2 for x in column) / 7
                for column, m in zip(zip(*rows, strict=True), mean, strict=True)]  # fmt: skip
    with use_backend("reference"):
        actual = batch_moments(torch.tensor([[float(x) for x in row] for row in rows]).double())
    assert actual.mean.tolist() == [float(m) for m in mean]
    assert actual.variance is not None
    assert actual.variance.tolist() == pytest.approx([float(v) for v in variance], rel=1e-15)
    assert actual.sq_norms.tolist() == [29.25, 21.25, 33.25, 16.25, 33.25, 25, 18, 31]
    published = [8.90625, 5.90625, 8.59375, 0.34375, 9.15625, 3.8125, 3.125, 8.5625]
    assert actual.inner_products is not None
    assert actual.inner_products.tolist() == published


@pytest.mark.parametrize(("offset", "padding"), [(1, 0), (0, 1), (3, 5), (1, 61)])
def test_views_with_an_offset_and_a_row_stride(
    backend: str, dtype: torch.dtype, offset: int, padding: int
) -> None:
    """The padding is NaN: read into a result it would show, written it would change."""
    for shape in ((2, 1), (9, 31), (17, 1030), (600, 33)):
        grads = per_sample_grads(*shape, dtype, padding=padding, offset=offset)
        before = grads.tensor.clone()
        _, expected = shared_case(*shape, dtype)
        assert_moments(batch_moments(grads.tensor), expected)
        grads.assert_outside_untouched()
        assert torch.equal(grads.tensor, before)


def test_rows_that_are_one_row(backend: str) -> None:
    """A row stride of zero is a stride like any other for what is only read."""
    row = per_sample_grads(1, 33, torch.bfloat16).tensor.float()
    actual = batch_moments(row.expand(8, 33))
    assert torch.equal(actual.mean, row[0])
    assert torch.equal(actual.variance, torch.zeros(33))


def test_rows_gigabytes_apart(backend: str) -> None:
    """Offsets of more than 2^32 elements; of the memory in between nothing is touched."""
    try:
        memory = torch.empty(2**32 + 100, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"this machine does not give 8 GB of address space: {error}")
    far = memory.as_strided((2, 50), (2**32 + 7, 1), 3)
    near, expected = shared_case(2, 50, torch.bfloat16)
    far.copy_(near)
    assert_moments(batch_moments(far), expected)


def test_one_column_of_a_matrix(backend: str) -> None:
    """With one feature the stride inside a row says nothing."""
    matrix = per_sample_grads(40, 6, torch.float32).tensor
    assert_moments(batch_moments(matrix[:, 2:3]), oracles.batch_moments(matrix[:, 2:3]))


@pytest.mark.parametrize("samples", [2, 9, 64, 513, 5000])
@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_variance_is_by_deviations(backend: str, wide: torch.dtype, samples: int) -> None:
    """A mean 10^4 times the deviation; a difference of squares would be off by 10 to 100 %."""
    ratio = 1e4 if wide == torch.float32 else 1e8
    grads = (ratio + torch.randn(samples, 70, dtype=torch.float64)).to(wide)
    actual = batch_moments(grads)
    expected = oracles.batch_moments(grads)
    assert_moments(actual, expected)
    variance, _ = expected.variance
    assert np.abs(extended(actual.variance) - variance).max() < 1e-3 * variance.mean()


@pytest.mark.parametrize("samples", [2, 7, 64, 1000])
def test_identical_rows_have_no_variance(backend: str, dtype: torch.dtype, samples: int) -> None:
    row = per_sample_grads(1, 100, dtype).tensor
    actual = batch_moments(row.repeat(samples, 1))
    off = mean_tolerance(row.repeat(samples, 1))
    assert_within("mean", actual.mean, extended(row[0]), off)
    assert_within("variance", actual.variance, np.zeros(100, np.longdouble), 2 * off**2)
    whole = batch_moments(torch.full((samples, 100), -3.0, dtype=dtype))
    assert torch.equal(whole.variance, torch.zeros(100, dtype=accumulation_dtype(dtype)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(3, 40), (70, 1025), (600, 20)])
def test_what_is_not_finite_stays_in_its_column_and_row(
    backend: str, dtype: torch.dtype, value: float, shape: tuple[int, int]
) -> None:
    for place in ((0, 0), (2, 17), (-1, -1)):
        _assert_contained(per_sample_grads(*shape, dtype).tensor.clone(), place, value)


def _assert_contained(clean: torch.Tensor, place: tuple[int, int], value: float) -> None:
    clean[place] = 0
    dirty = clean.clone()
    dirty[place] = value
    before, after = batch_moments(clean), batch_moments(dirty)
    assert_moments(after, oracles.batch_moments(dirty))
    row, column = place[0] % len(clean), place[1] % clean.shape[1]
    for name, index in (("mean", column), ("variance", column), ("sq_norms", row)):
        ours, theirs = getattr(after, name).clone(), getattr(before, name).clone()
        assert not ours[index].isfinite()
        ours[index] = theirs[index] = 0
        assert torch.equal(ours, theirs), f"{name} changed elsewhere"
    assert not after.inner_products.isfinite().any()


def test_denormals_are_numbers(backend: str) -> None:
    step = 2.0**-149
    grads = torch.arange(24, dtype=torch.float64).reshape(4, 6).mul(4 * step).float()
    actual = batch_moments(grads)
    assert_within("mean", actual.mean, extended(grads).mean(0), np.full(6, step))
    assert actual.mean[0] > 0


@pytest.mark.parametrize("exponent", [-15, -8, 8, 15])
def test_scaling_by_a_power_of_two_scales_exactly(backend: str, exponent: int) -> None:
    grads = per_sample_grads(12, 130, torch.float32).tensor
    plain, scaled = batch_moments(grads), batch_moments(grads * 2.0**exponent)
    for name, power in (("mean", 1), ("variance", 2), ("sq_norms", 2), ("inner_products", 2)):
        expected = getattr(plain, name) * 2.0 ** (power * exponent)
        assert torch.equal(getattr(scaled, name), expected), name


def test_narrow_inputs_are_summed_as_float32(backend: str) -> None:
    """bfloat16 has 8 bits: sums kept in it would stop growing at 256 ones."""
    grads = torch.ones(5000, 3, dtype=torch.bfloat16)
    actual = batch_moments(grads)
    assert torch.equal(actual.mean, torch.ones(3))
    half = torch.full((4, 5000), 200.0, dtype=torch.float16)
    assert batch_moments(half).sq_norms.tolist() == [200.0**2 * 5000] * 4


def test_wide_rows_are_summed_in_float64(backend: str) -> None:
    """A million equal squares: float32 alone would be off by some 10^-5."""
    grads = torch.full((2, 1_000_000), 0.1)
    expected = 1_000_000 * float(torch.tensor(0.1).double() ** 2)
    relative = abs(batch_moments(grads).sq_norms / expected - 1).max()
    assert relative < 64 * accumulation_epsilon(torch.float32)


def test_guarded_fills_its_surroundings() -> None:
    """The guard itself sees a write next to the tensor."""
    view = guarded(torch.zeros(3, 4), 1, (6, 1))
    view.assert_outside_untouched()
    view.buffer[64] = 0
    with pytest.raises(AssertionError, match="outside"):
        view.assert_outside_untouched()
