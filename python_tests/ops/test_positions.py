"""The passes over a layer's positions: turned and summed, and multiplied sample by sample."""

from __future__ import annotations

import pytest
import torch
from support.buffers import guarded
from torch import Tensor

from adadagrad_kernels.backends import cpu, reference
from adadagrad_kernels.checks import ACCUMULATION_DTYPES

#: Around words of four positions, stretches of 64, vectors and tiles of 128 features.
SIZES = [(1, 1, 1), (2, 3, 5), (3, 4, 16), (2, 5, 17), (1, 64, 33), (2, 67, 128), (1, 130, 300)]


def values_of(samples: int, positions: int, features: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(positions)
    return torch.randn(samples, positions, features, generator=generator).to(dtype)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_turns_and_sums(isa: str, dtype: torch.dtype, sizes: tuple[int, int, int]) -> None:
    """Rows that lie apart, between guards of NaN, at addresses that no vector is aligned to."""
    samples, positions, features = sizes
    given = values_of(*sizes, dtype)
    stride = features + 3
    values = guarded(given, 1, (positions * stride, stride, 1))
    turned = guarded(torch.zeros(samples, features, positions, dtype=dtype), 3)
    sums = guarded(torch.zeros(samples, features, dtype=ACCUMULATION_DTYPES[dtype]), 1)
    cpu.transpose_positions_(values.tensor, turned.tensor, sums.tensor)
    assert torch.equal(turned.tensor, given.mT)
    exact = 1e-14 if dtype == torch.float64 else 3e-7
    allowed = exact * given.double().abs().sum(1)
    assert ((sums.tensor - given.double().sum(1)).abs() <= allowed).all()
    for buffer in (values, turned, sums):
        buffer.assert_outside_untouched()


@pytest.mark.parametrize("threads", [1, 3])
def test_either_result_alone_has_the_same_bits(isa: str, dtype: torch.dtype, threads: int) -> None:
    values = values_of(5, 21, 260, dtype)
    both = (
        values.mT.new_empty(5, 260, 21),
        values.new_empty(5, 260, dtype=ACCUMULATION_DTYPES[dtype]),
    )
    cpu.transpose_positions_(values, *both)
    alone = [torch.zeros_like(result) for result in both]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cpu.transpose_positions_(values, alone[0], None)
        cpu.transpose_positions_(values, None, alone[1])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(alone, both, strict=True))


def test_features_that_lie_apart_are_read_too(isa: str) -> None:
    values = values_of(3, 9, 20, torch.bfloat16).mT.contiguous().mT
    turned = values.new_empty(3, 20, 9)
    cpu.transpose_positions_(values, turned, None)
    assert torch.equal(turned, values.mT)


def test_outputs_have_a_new_version(isa: str) -> None:
    turned, sums = torch.zeros(2, 4, 3), torch.zeros(2, 4)
    versions = turned._version, sums._version
    cpu.transpose_positions_(torch.randn(2, 3, 4), turned, sums)
    assert turned._version > versions[0]
    assert sums._version > versions[1]


@pytest.mark.parametrize("size", [1, 15, 17, 1000, 32768, 70001])
def test_products_of_rows(isa: str, dtype: torch.dtype, size: int) -> None:
    one, other = values_of(3, 2, size, dtype)[:, 0].clone(), values_of(3, 3, size, dtype)[:, 1]
    buffers = [guarded(tensor.contiguous(), 1) for tensor in (one, other)]
    found = cpu.row_products(*(buffer.tensor for buffer in buffers))
    exact = one.double() * other.double()
    rounding = 1e-14 if dtype == torch.float64 else 1e-6
    assert ((found - exact.sum(1)).abs() <= rounding * exact.abs().sum(1)).all()
    torch.testing.assert_close(
        reference.row_products(one, other), exact.sum(1), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_products_of_rows_have_the_same_bits_on_any_number_of_threads(
    isa: str, threads: int
) -> None:
    one, other = torch.randn(2, 3, 100_000)
    expected = cpu.row_products(one, other)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(cpu.row_products(one, other), expected)
    finally:
        torch.set_num_threads(before)
    assert cpu.row_products(one[:0], other[:0]).shape == (0,)
