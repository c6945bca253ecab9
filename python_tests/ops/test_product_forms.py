"""The choice among equivalent forms of a layer that multiplies, by sizes alone."""

from __future__ import annotations

import itertools
from unittest import mock

import pytest
import torch
from support.layer_oracles import assert_layer_moments, conv, linear

from adadagrad_kernels.ops import (
    _conv_forms,
    _linear_forms,
    _products,
    conv_moments,
    linear_moments,
)
from adadagrad_kernels.ops._conv_forms import ConvGeometry, conv_form
from adadagrad_kernels.ops._linear_forms import linear_form

ASKED = [(False, False), (True, False), (False, True), (True, True)]


def form_of(*sizes: int, variance: bool = False, products: bool = False) -> str:
    return linear_form(*sizes, variance=variance, inner_products=products)


@pytest.mark.parametrize("asked", ASKED)
def test_one_position_is_rank_one(asked: tuple[bool, bool]) -> None:
    assert form_of(64, 1, 30, 40, variance=asked[0], products=asked[1]) == "rank one"


def test_norms_of_few_positions_are_gram() -> None:
    assert form_of(64, 2, 512, 512) == "gram"
    assert form_of(64, 128, 512, 512) == "samples"
    assert form_of(64, 8, 4, 4) == "samples"


def test_variances_take_chunks() -> None:
    assert form_of(64, 2, 512, 512, variance=True) == "samples"


def test_inner_products_take_rows_while_these_are_many() -> None:
    assert form_of(8, 256, 768, 768, products=True) == "rows"
    assert form_of(8, 256, 768, 768, variance=True, products=True) == "rows"
    assert form_of(4096, 64, 768, 768, products=True) == "samples"


#: Each form with what it can be asked: gram gives no variance, rows are for inner products alone.
FORMS = [
    *(("gram", asked) for asked in ASKED if not asked[0]),
    *(("samples", asked) for asked in ASKED),
    *(("rows", asked) for asked in ASKED if asked[1]),
]
CONV_FORMS = [("gram", (False, False)), *((f, a) for f in ("grouped", "unfold") for a in ASKED)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(9, 7, 33, 18), (5, 3, 16, 40), (2, 40, 9, 8)], ids=str)
@pytest.mark.parametrize(("form", "asked"), FORMS)
def test_every_form_gives_the_same(
    backend: str, dtype: torch.dtype, form: str, shape: tuple[int, ...], asked: tuple[bool, bool]
) -> None:
    """In chunks of some samples or rows, of which the last is shorter."""
    samples, positions, inputs, outputs = shape
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(samples, positions, inputs, generator=generator).to(dtype)
    y = torch.randn(samples, positions, outputs, generator=generator).to(dtype)
    with (
        mock.patch.object(_linear_forms, "linear_form", return_value=form),
        mock.patch.object(_products, "_CACHE_BYTES", 2 * inputs * outputs * x.element_size() + 1),
        mock.patch.object(_products, "_SUM_BYTES", 1),
    ):
        _products._cache_bytes.cache_clear()
        actual = linear_moments(x, y, variance=asked[0], inner_products=asked[1])
    _products._cache_bytes.cache_clear()
    assert_layer_moments(actual, linear(x, y), bias=True)


GEOMETRIES = {
    "plain": ConvGeometry((3, 3), (1, 1), (1, 1), (1, 1), 1),
    "strided": ConvGeometry((3, 2), (2, 1), (1, 0), (1, 2), 1),
    "groups": ConvGeometry((3, 3), (1, 1), (0, 1), (1, 1), 2),
    "one channel each": ConvGeometry((2, 2), (1, 1), (0, 0), (1, 1), 4),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize(("form", "asked"), CONV_FORMS)
def test_every_form_of_a_convolution_gives_the_same(
    dtype: torch.dtype, form: str, kind: str, asked: tuple[bool, bool]
) -> None:
    geometry = GEOMETRIES[kind]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 4, 7, 6, generator=generator).to(dtype)
    weight = torch.zeros(8, 4 // geometry.groups, *geometry.kernel_size).to(dtype)
    settings = geometry._asdict()
    settings.pop("kernel_size")
    like = torch.nn.functional.conv2d(x, weight, **settings)
    y = torch.randn(like.shape, generator=generator).to(dtype)
    with (
        mock.patch.object(_conv_forms, "conv_form", return_value=form),
        mock.patch.object(_products, "_CACHE_BYTES", 2 * weight.nbytes + 1),
        mock.patch.object(_products, "_SUM_BYTES", 1),
    ):
        _products._cache_bytes.cache_clear()
        actual = conv_moments(x, y, geometry.kernel_size, variance=asked[0],
                              inner_products=asked[1], **settings)  # fmt: skip
    _products._cache_bytes.cache_clear()
    sizes = (geometry.kernel_size, geometry.stride, geometry.padding, geometry.dilation)
    assert_layer_moments(actual, conv(x, y, *sizes, geometry.groups), bias=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("layout", ["rows", "channels", "channels last"])
@pytest.mark.parametrize(("form", "asked"), [("unfold", (True, True)), ("gram", (False, False))])
def test_patches_are_the_same_in_every_layout(
    form: str, asked: tuple[bool, bool], layout: str, kind: str, dtype: torch.dtype
) -> None:
    geometry = GEOMETRIES[kind]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(5, 4, 7, 6, generator=generator).to(dtype)
    weight = torch.zeros(8, 4 // geometry.groups, *geometry.kernel_size).to(dtype)
    settings = geometry._asdict()
    settings.pop("kernel_size")
    like = torch.nn.functional.conv2d(x, weight, **settings)
    y = torch.randn(like.shape, generator=generator).to(dtype)
    expected = conv(x, y, **geometry._asdict())
    if layout == "channels last":
        x, y = (z.contiguous(memory_format=torch.channels_last) for z in (x, y))
    with (
        mock.patch.object(_conv_forms, "conv_form", return_value=form),
        mock.patch.object(_conv_forms, "_LONG_ROW", 99 if layout == "channels" else 0),
    ):
        actual = conv_moments(x, y, geometry.kernel_size, variance=asked[0],
                              inner_products=asked[1], **settings)  # fmt: skip
    if form == "unfold":
        assert actual.weight_grad.is_contiguous()
        assert actual.weight_variance.is_contiguous()
    assert_layer_moments(actual, expected, bias=True)


@pytest.mark.parametrize("size", [(9,), (5, 4), (4, 3, 5)], ids=len)
@pytest.mark.parametrize("inside", [False, True])
def test_patches_are_those_of_one_loop(inside: bool, size: tuple[int, ...]) -> None:
    """In one, two and three dimensions, with groups, steps and gaps."""
    dims = len(size)
    geometry = ConvGeometry((2,) * dims, (2,) * dims, (1,) * dims, (2,) * dims, 2)
    x = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(3))
    padded = torch.nn.functional.pad(x, [1] * 2 * dims)
    starts = [range(0, n + 2 - 2, 2) for n in size]
    expected = torch.stack(
        [
            padded[(slice(None), slice(None), *(slice(i, i + 3, 2) for i in corner))]
            for corner in itertools.product(*starts)
        ],
        dim=1,
    )  # [samples, positions, channels, *kernel]
    expected = expected.unflatten(2, (2, 2)).movedim(2, 1).flatten(4)
    if inside:
        expected = expected.mT
    actual = geometry.patches(x, inside)
    assert torch.equal(actual, expected.reshape(6, len(expected[0, 0]), -1))


def test_convolutions_take_the_kernel_where_it_is_ahead() -> None:
    def form(channels: int, size: int, dtype: torch.dtype, kernel: bool = True,
             variance: bool = False) -> str:  # fmt: skip
        geometry = GEOMETRIES["plain"]
        return conv_form(channels, channels, size**2, geometry, kernel=kernel, variance=variance,
                         inner_products=False, dtype=dtype)  # fmt: skip

    assert form(16, 28, torch.float32) == "kernel"
    assert form(64, 32, torch.float32) == "kernel"
    assert form(64, 32, torch.bfloat16) == "grouped"
    assert form(512, 4, torch.float32) == "gram"
    assert form(64, 32, torch.float32, kernel=False) == "unfold"
    assert form(256, 8, torch.bfloat16) == "unfold"
    assert form(512, 4, torch.float32, variance=True) == "kernel"


def test_a_chunk_has_one_sample_at_least() -> None:
    assert _products.chunk_samples(8, 10**9, torch.float32, "cpu") == 1
    assert _products.chunk_samples(8, 10, torch.float32, "cpu") == 8


def test_chunks_have_as_many_samples_for_each_of_some_threads() -> None:
    """Where not all fit: as many as a power of two; of large contributions as long as sums are."""
    mib = 1 << 20

    def samples(dtype: torch.dtype, size: int) -> int:
        return _products.chunk_samples(64, size // dtype.itemsize, dtype, "cpu")

    assert [samples(torch.float32, mib // part) for part in (1, 3, 5, 16)] == [2, 4, 8, 32]
    assert [samples(dtype, 5 * mib) for dtype in (torch.float64, torch.float32)] == [1, 2]
    assert samples(torch.bfloat16, 5 * mib) == 4
    assert samples(torch.float32, 30 * mib) == 1


def test_chunks_of_rows_are_as_long_as_each_other() -> None:
    sizes = [_products.chunk_rows(rows, 1 << 20, torch.float64, "cpu") for rows in (1, 2, 3, 100)]
    assert sizes == [1, 1, 1, 1]
    assert _products.chunk_rows(170, 1 << 14, torch.float32, "cpu") == 85


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_of_slices_are_those_of_their_copies(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    y = torch.randn(3, 40, 48, generator=generator).to(dtype)[:, :, 8:24]
    x = torch.randn(3, 40, 32, generator=generator).to(dtype)[:, ::1, :9]
    memory = torch.empty(3, 16, 9, dtype=dtype)
    expected = torch.bmm(y.contiguous().mT, x.contiguous())
    assert torch.equal(_products.product_chunk(y, x, memory), expected)


def test_only_slices_are_copied() -> None:
    whole = torch.randn(3, 40, 48)
    assert _products._compact(whole) is whole
    transposed = whole.mT
    assert _products._compact(transposed) is transposed
    part = whole[:, :, 8:24].mT
    assert not part.mT.is_contiguous()
    assert _products._compact(part).mT.is_contiguous()
    assert torch.equal(_products._compact(part), part)
