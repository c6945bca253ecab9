"""`adagrad_norm_step_` against its definition, with one accumulator in all and one per row."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator

import pytest
import torch
from support.buffers import guarded, taken
from support.calls import tensor_by_tensor
from support.oracles import Rule, assert_adagrad_norm
from support.tolerances import assert_within, extended, sq_norm_tolerance
from torch import Tensor

from adadagrad_kernels.ops import adagrad_norm_step_

SHAPES = [(1,), (7,), (17,), (33,), (4099,), (), (0,), (0, 3), (3, 0), (8, 9), (31, 33),
          (3, 1023), (513, 5), (2, 3, 4, 5), (4099, 1)]  # fmt: skip
RULES = [
    Rule(),
    Rule(lr=0.1, eps=1e-3, weight_decay=0.01),
    Rule(maximize=True, weight_decay=0.1, grad_scale=3.0),
]


@pytest.fixture(autouse=True, params=[contextlib.nullcontext, tensor_by_tensor],
                ids=["as a whole", "tensor by tensor"])  # fmt: skip
def _reading(request: pytest.FixtureRequest) -> Iterator[None]:
    """A backend may read whole lists, and leave to the checks what it does not take."""
    with request.param():
        yield


def _lists(
    shapes: list[tuple[int, ...]], dtype: torch.dtype, row_wise: bool, scale: float = 1.0
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    params = [torch.randn(shape).to(dtype) for shape in shapes]
    grads = [(torch.randn(shape) * scale).to(dtype) for shape in shapes]
    rows = [shape[0] if shape else 1 for shape in shapes] if row_wise else [1]
    return params, grads, [torch.rand(n, dtype=torch.float64) + 0.25 for n in rows]


def _assert_step(
    params: list[Tensor], grads: list[Tensor], sums: list[Tensor], rule: Rule, row_wise: bool
) -> None:
    before = [p.clone() for p in params], [s.clone() for s in sums]
    accumulators = sums if row_wise else sums[0]
    sq_norm = adagrad_norm_step_(params, grads, accumulators, **rule.keywords())
    assert sq_norm.dtype == torch.float64
    assert sq_norm.shape == ()
    assert_adagrad_norm((params, sums), before, grads, rule, row_wise)
    unscaled = [extended(grad).reshape(-1) / rule.grad_scale for grad in grads]
    expected = sum((values**2).sum() for values in unscaled)
    allowed = sum(sq_norm_tolerance(v, g.dtype) for v, g in zip(unscaled, grads, strict=True))
    assert_within("sq_norm", sq_norm, expected, allowed)


@pytest.mark.parametrize("row_wise", [False, True], ids=["scalar", "rows"])
@pytest.mark.parametrize("rule", RULES, ids=["plain", "decay", "ascent"])
def test_matches_the_definition(
    backend: str, dtype: torch.dtype, rule: Rule, row_wise: bool
) -> None:
    """All shapes in one call, and each in a call of its own."""
    _assert_step(*_lists(SHAPES, dtype, row_wise), rule, row_wise)
    for shape in SHAPES:
        _assert_step(*_lists([shape], dtype, row_wise), rule, row_wise)


@pytest.mark.parametrize("row_wise", [False, True], ids=["scalar", "rows"])
def test_many_small_and_one_large_tensor(backend: str, row_wise: bool) -> None:
    shapes = [(n % 7, n % 5) for n in range(100)] + [(3, 100_001), (20_000, 9)]
    _assert_step(*_lists(shapes, torch.float32, row_wise), Rule(weight_decay=0.01), row_wise)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_one_accumulator_may_have_any_shape_with_one_element(
    backend: str, shape: tuple[int, ...]
) -> None:
    param = torch.zeros(2)
    accumulator = torch.zeros(shape, dtype=torch.float64)
    sq_norm = adagrad_norm_step_([param], [torch.tensor([3.0, 4.0])], accumulator, lr=1.0)
    assert sq_norm.item() == 25.0
    assert accumulator.item() == 25.0
    torch.testing.assert_close(param, torch.tensor([-0.6, -0.8]))


@pytest.mark.parametrize("row_wise", [False, True], ids=["scalar", "rows"])
def test_unaligned_tensors_and_their_neighbours(
    backend: str, dtype: torch.dtype, row_wise: bool
) -> None:
    for offset in (1, 3):
        lists = _lists([(17,), (5, 33), (9, 31)], dtype, row_wise)
        views = [[guarded(tensor, offset) for tensor in tensors] for tensors in lists]
        _assert_step(*([v.tensor for v in view] for view in views), Rule(), row_wise)
        for view in itertools.chain(*views):
            view.assert_outside_untouched()


@pytest.mark.parametrize("dense", [torch.channels_last, None], ids=["channels_last", "transposed"])
def test_any_dense_layout_with_one_accumulator(
    backend: str, dtype: torch.dtype, dense: torch.memory_format | None
) -> None:
    def move(tensor: Tensor) -> Tensor:
        if dense is None:
            return tensor.transpose(0, 3).contiguous().transpose(0, 3)
        return tensor.to(memory_format=dense)

    params, grads, sums = _lists([(4, 3, 5, 7)], dtype, False)
    _assert_step([move(params[0])], [move(grads[0])], sums, Rule(weight_decay=0.1), False)


def test_dtypes_may_differ_between_tensors(backend: str) -> None:
    for row_wise in (False, True):
        params, grads = [], []
        for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16):
            new = _lists([(3, 21)], taken(dtype), row_wise)
            params += new[0]
            grads += new[1]
        sums = [torch.ones(3 if row_wise else 1, dtype=torch.float64) for _ in params]
        _assert_step(params, grads, sums if row_wise else sums[:1], Rule(), row_wise)


def test_empty_lists(backend: str) -> None:
    accumulator = torch.ones((), dtype=torch.float64)
    assert adagrad_norm_step_([], [], accumulator, lr=0.1).item() == 0.0
    assert accumulator.item() == 1.0
    assert adagrad_norm_step_([], [], [], lr=0.1).item() == 0.0


def test_a_zero_gradient_moves_nothing(backend: str) -> None:
    """0 / (sqrt(0) + eps) is 0, in all and by rows."""
    for row_wise in (False, True):
        params, grads, sums = _lists([(4, 9)], torch.float32, row_wise)
        grads[0].zero_()
        for total in sums:
            total.zero_()
        before = params[0].clone()
        adagrad_norm_step_(params, grads, sums if row_wise else sums[0], lr=1.0)
        assert torch.equal(params[0], before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(
    backend: str, dtype: torch.dtype, value: float
) -> None:
    """One accumulator takes every parameter with it; accumulators of rows only their row."""
    for shape in ((5, 33), (70, 20)):
        params, grads, sums = _lists([shape, (9,)], dtype, True)
        grads[0][2, 17] = 0
        clean = [tensor.clone() for tensor in (*params, *sums)]
        adagrad_norm_step_(clean[:2], grads, clean[2:], lr=0.1)
        grads[0][2, 17] = value
        whole = [tensor.clone() for tensor in params]
        accumulator = torch.ones((), dtype=torch.float64)
        assert not adagrad_norm_step_(params, grads, sums, lr=0.1).isfinite()
        assert not sums[0][2].isfinite()
        assert params[0][2, 17].isnan()
        for ours, theirs in zip((*params, *sums), clean, strict=True):
            if len(ours) == shape[0]:
                ours[2] = theirs[2] = 0
            assert torch.equal(ours, theirs)
        assert not adagrad_norm_step_(whole, grads, accumulator, lr=0.1).isfinite()
        assert not accumulator.isfinite()
        assert whole[0][2, 17].isnan()


def test_follows_the_published_rule_for_many_steps(backend: str) -> None:
    """Ward, Wu, Bottou 2019: b^2 += |g|^2, x -= lr / b * g, in float64 by hand."""
    ours, theirs = torch.ones(50), torch.ones(50, dtype=torch.float64)
    accumulator, total = torch.full((1,), 0.01, dtype=torch.float64), 0.01
    for step in range(10):
        grad = torch.randn(50) / (step + 1)
        total += float(grad.double().square().sum())
        theirs -= 0.3 / total**0.5 * grad.double()
        adagrad_norm_step_([ours], [grad], accumulator, lr=0.3)
    assert accumulator.item() == pytest.approx(total, rel=1e-6)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
