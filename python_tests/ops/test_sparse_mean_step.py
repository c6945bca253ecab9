"""`sparse_mean_step_` against its definition, bit by bit where it promises bits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.buffers import guarded
from support.gpu_executions import widest
from support.sparse_calls import compressed
from support.sparse_oracle import assert_step
from support.tolerances import accumulation_dtype
from torch import Tensor

from adadagrad_kernels import _native
from adadagrad_kernels.ops import CsrRows, adagrad_step_, sparse_mean_step_

# Samples, features, share of what is not zero: around vectors, tiles, buckets and blocks.
SHAPES = [
    (1, 1, 1.0), (1, 33, 0.3), (2, 7, 0.5), (3, 8, 0.0), (5, 9, 0.4), (8, 15, 0.2), (9, 16, 0.9),
    (31, 17, 0.1), (64, 31, 0.05), (4, 1023, 0.1), (3, 4099, 0.02), (513, 33, 0.3), (700, 3, 0.5),
    (2, 9001, 0.01),
]  # fmt: skip
MODES = ("adabatch", "mean", "sum")
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def dense_rows(samples: int, features: int, share: float, dtype: torch.dtype) -> Tensor:
    """Columns of different scale and mean, the first ones more often not zero."""
    likely = torch.linspace(2 * share, 0, features) if 0 < share < 1 else torch.tensor(share)
    values = torch.randn(samples, features) * torch.exp(torch.randn(features)) + 0.3
    return (values * (torch.rand(samples, features) < likely)).to(dtype)


def rows_of(dense: Tensor, kind: torch.dtype = torch.int64) -> CsrRows:
    return CsrRows(*compressed(dense, kind))


def options(features: int, dtype: torch.dtype) -> dict[str, Any]:
    sums = accumulation_dtype(dtype)
    return {
        "ridge": 0.05,
        "probabilities": (torch.rand(features) * 0.9 + 0.1).to(sums),
        "offset": torch.randn(features).to(sums),
        "state_sum": (torch.rand(features) + 0.1).to(dtype),
    }


@each_shape
@pytest.mark.parametrize("stored", [False, True], ids=["zeros", "entries"])
def test_matches_the_definition(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, float], stored: bool
) -> None:
    dense = dense_rows(*shape, dtype)
    rows = rows_of(dense) if stored else dense
    param = torch.randn(shape[1]).to(dtype)
    given = options(shape[1], dtype)
    assert_step(param, rows, lr=0.125, **given)
    if shape[1] < 100:
        for mode in MODES:
            assert_step(param, rows, lr=0.125, mode=mode)
        assert_step(param, rows, lr=0.125, state_sum=given["state_sum"], eps=1e-3)


def test_many_entries(backend: str) -> None:
    """Blocks and buckets, few columns and many, and one that every sample has."""
    for samples, features, share in ((1800, 40, 0.5), (300, 3000, 0.04)):
        dense = dense_rows(samples, features, share, torch.float32)
        dense[:, 7] = 1
        given = options(features, torch.float32)
        assert_step(torch.randn(features), rows_of(dense), lr=0.1, **given)


def test_the_known_batch(backend: str) -> None:
    samples, features = range(8), range(5)
    table = [[(3 * i + 5 * j) % 7 - 2 + 0.5 * (i == j) for j in features] for i in samples]
    dtype = widest(backend)
    close = 4 * torch.finfo(dtype).eps
    grads = torch.tensor(table, dtype=dtype)
    grads[grads.abs() < 1.01] = 0
    expected = {
        "sum": [5.5, 10.0, 7.0, 8.5, 11.5],
        "adabatch": [1.1, 2.0, 1.75, 1.7, 2.3],
        "mean": [0.6875, 1.25, 0.875, 1.0625, 1.4375],
    }
    for mode, values in expected.items():
        wanted = torch.tensor(values, dtype=dtype)
        for rows in (grads, rows_of(grads)):
            param = torch.zeros(5, dtype=dtype)
            sq_norm = sparse_mean_step_(param, rows, lr=-1, mode=mode)
            torch.testing.assert_close(param, wanted, rtol=close, atol=0)
            assert float(sq_norm) == pytest.approx(float(wanted.square().sum()), rel=4 * close)


@each_shape
def test_zeros_and_entries_give_the_same_bits(
    isa: str, dtype: torch.dtype, shape: tuple[int, int, float]
) -> None:
    dense = dense_rows(*shape, dtype)
    param, given = torch.randn(shape[1]).to(dtype), options(shape[1], dtype)
    results = []
    for rows in (dense, rows_of(dense), rows_of(dense, torch.int32)):
        one, total = param.clone(), given["state_sum"].clone()
        sparse_mean_step_(one, rows, lr=0.1, **{**given, "state_sum": total})
        results.append((one, total))
    for one, total in results[1:]:
        assert torch.equal(one, results[0][0])
        assert torch.equal(total, results[0][1])


def test_instruction_sets_give_the_same_bits(isa: str) -> None:
    dense = dense_rows(64, 300, 0.3, torch.float32)
    param, given = torch.randn(300), options(300, torch.float32)
    active = _native.instruction_sets()["active"]
    results = []
    for name in (isa, "scalar"):
        _native.use_isa(name)
        one, total = param.clone(), given["state_sum"].clone()
        sparse_mean_step_(one, rows_of(dense), lr=0.1, **{**given, "state_sum": total})
        results.append((one, total))
    _native.use_isa(active)
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_one_sample_is_a_step_of_sgd_and_adagrad(backend: str, dtype: torch.dtype) -> None:
    grad = dense_rows(1, 400, 0.3, dtype)
    param = torch.randn(400).to(dtype)
    for mode in MODES:
        ours = param.clone()
        sparse_mean_step_(ours, rows_of(grad), lr=0.25, mode=mode)
        wanted = (param.double() - 0.25 * grad[0].double()).to(dtype)
        close = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours, wanted, rtol=close, atol=close)
    one, total = param.clone(), torch.full_like(param, 0.5)
    other, other_total = param.clone(), total.clone()
    sparse_mean_step_(one, rows_of(grad), lr=0.25, state_sum=total)
    adagrad_step_([other], [grad[0]], [other_total], lr=0.25)
    torch.testing.assert_close(one, other, rtol=4 * torch.finfo(dtype).eps, atol=1e-6)
    torch.testing.assert_close(total, other_total, rtol=4 * torch.finfo(dtype).eps, atol=0)


def test_features_that_all_samples_have_make_it_the_mean(backend: str) -> None:
    grads = torch.randn(17, 33) + 3
    ours, mean = torch.randn(33).repeat(2, 1)
    sparse_mean_step_(ours, grads, lr=0.1)
    sparse_mean_step_(mean, rows_of(grads), lr=0.1, mode="mean")
    torch.testing.assert_close(ours, mean)


def test_entries_of_one_sample_at_one_column_add_up_and_count_once(backend: str) -> None:
    rows = CsrRows(
        torch.tensor([0, 4, 4, 6]),
        torch.tensor([2, 0, 2, 2, 2, 2]),
        torch.tensor([1.0, 5.0, 2.0, 3.0, 10.0, -20.0]),
    )
    param = torch.zeros(3)
    sparse_mean_step_(param, rows, lr=1.0)
    assert param.tolist() == [-5.0, 0.0, -(6.0 - 10.0) / 2]
    many = torch.randint(0, 5, (20_000,))
    doubled = CsrRows(torch.arange(0, 20_001, 20), many, torch.randn(20_000))
    assert_step(torch.randn(5), doubled, lr=0.1, **options(5, torch.float32))


def test_stored_zeros_touch(backend: str) -> None:
    """A stored entry is part of the sample's structure; a zero among rows is not."""
    rows = CsrRows(torch.tensor([0, 1, 2]), torch.tensor([1, 1]), torch.tensor([0.0, 4.0]))
    param = torch.zeros(2)
    sparse_mean_step_(param, rows, lr=1.0)
    assert param.tolist() == [0.0, -2.0]
    param.zero_()
    sparse_mean_step_(param, torch.tensor([[0.0, 0.0], [0.0, 4.0]]), lr=1.0)
    assert param.tolist() == [0.0, -4.0]


def test_nothing_to_do(backend: str, dtype: torch.dtype) -> None:
    """No samples, rows without entries, no features: nothing changes."""
    none = torch.zeros(0, dtype=dtype)
    for starts in ([0], [0, 0, 0]):
        for kind in (torch.int32, torch.int64):
            rows = CsrRows(torch.tensor(starts, dtype=kind), none.to(kind), none)
            for mode in MODES:
                param = torch.randn(4).to(dtype)
                before = param.clone()
                assert sparse_mean_step_(param, rows, lr=1.0, mode=mode) == 0
                assert torch.equal(param, before)
    for shape in ((0, 4), (3, 0), (2, 4)):
        param = torch.ones(shape[1], dtype=dtype)
        assert sparse_mean_step_(param, torch.zeros(shape, dtype=dtype), lr=1.0) == 0
        assert (param == 1).all()


def test_untouched_coordinates_are_not_looked_at(backend: str) -> None:
    """NaN where nothing is touched stays, in whatever belongs to such a coordinate."""
    rows = CsrRows(torch.tensor([0, 2]), torch.tensor([4, 1]), torch.ones(2))
    given = options(6, torch.float32)
    param = torch.ones(6)
    for tensor in (param, *(given[n] for n in ("probabilities", "offset", "state_sum"))):
        tensor[[0, 2, 3, 5]] = float("nan")
    sparse_mean_step_(param, rows, lr=0.1, **given)
    assert param.isfinite().nonzero().flatten().tolist() == [1, 4]
    assert given["state_sum"].isfinite().nonzero().flatten().tolist() == [1, 4]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_coordinate(
    backend: str, dtype: torch.dtype, value: float
) -> None:
    dense = dense_rows(30, 200, 0.2, dtype)
    dense[5, 3] = 1
    clean = torch.randn(200).to(dtype)
    param = clean.clone()
    sparse_mean_step_(clean, dense, lr=0.1)
    dense[5, 3] = value
    for rows in (dense, rows_of(dense)):
        after = param.clone()
        sparse_mean_step_(after, rows, lr=0.1)
        assert not after[3].isfinite()
        after[3] = clean[3]
        torch.testing.assert_close(after, clean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("offset", "padding"), [(1, 0), (0, 1), (3, 61)])
def test_views_and_their_neighbours(
    backend: str, dtype: torch.dtype, offset: int, padding: int
) -> None:
    for shape in ((2, 1, 1.0), (9, 31, 0.3), (17, 1030, 0.1)):
        dense = dense_rows(*shape, dtype)
        view = guarded(dense, offset, (shape[1] + padding, 1))
        starts, columns, values = rows_of(dense)
        strided = torch.stack([values, values], 1)[:, 0]
        before, before_sum = torch.randn(shape[1]).to(dtype), torch.ones(shape[1]).to(dtype)
        wanted, wanted_sum = before.clone(), before_sum.clone()
        sparse_mean_step_(wanted, dense, lr=0.1, state_sum=wanted_sum)
        for rows in (view.tensor, CsrRows(starts, columns, strided)):
            param, total = guarded(before, offset), guarded(before_sum, offset)
            sparse_mean_step_(param.tensor, rows, lr=0.1, state_sum=total.tensor)
            torch.testing.assert_close(param.tensor, wanted)
            torch.testing.assert_close(total.tensor, wanted_sum)
            for guard in (param, total, view):
                guard.assert_outside_untouched()


def test_param_may_have_any_shape(backend: str) -> None:
    grads = dense_rows(7, 24, 0.4, torch.float32)
    flat, total = torch.randn(24), torch.ones(24)
    shaped, shaped_total = flat.clone().view(2, 3, 4), total.clone().view(2, 3, 4)
    sparse_mean_step_(flat, grads, lr=0.1, state_sum=total)
    sparse_mean_step_(shaped, rows_of(grads), lr=0.1, state_sum=shaped_total)
    torch.testing.assert_close(shaped.view(-1), flat)
    torch.testing.assert_close(shaped_total.view(-1), total)


@pytest.mark.parametrize("shape", [(3000, 60, 0.5), (900, 5000, 0.05)], ids=str)
@pytest.mark.parametrize("kind", [torch.int32, torch.int64], ids=str)
def test_bits_do_not_depend_on_threads(
    isa: str, shape: tuple[int, int, float], kind: torch.dtype
) -> None:
    """The synchronous parallel form: what threads share changes nothing."""
    dense = dense_rows(*shape, torch.float64)
    param, given = torch.randn(shape[1], dtype=torch.float64), options(shape[1], torch.float64)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            for rows in (dense, rows_of(dense, kind)):
                one, total = param.clone(), given["state_sum"].clone()
                sq_norm = sparse_mean_step_(one, rows, lr=0.1, **{**given, "state_sum": total})
                results.append((one, total, sq_norm))
    finally:
        torch.set_num_threads(before)
    for index, result in enumerate(results):
        for name, one, two in zip("wvn", result, results[index % 2], strict=True):
            assert torch.equal(one, two), f"{name} of call {index}"
