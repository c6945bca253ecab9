"""`adagrad_step_` against its definition and against torch.optim.Adagrad."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from support.buffers import guarded, taken
from support.calls import tensor_by_tensor
from support.oracles import Rule, assert_adagrad
from support.tolerances import assert_within, extended, sq_norm_tolerance

from adadagrad_kernels.ops import adagrad_step_

SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 1023, 4099)
RULES = [
    Rule(),
    Rule(lr=0.1, eps=1e-3, weight_decay=0.01),
    Rule(maximize=True, weight_decay=0.1, grad_scale=3.0),
    Rule(lr=0.0, weight_decay=1.0, grad_scale=65536.0),
]
Triples = tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]


@pytest.fixture(autouse=True, params=[contextlib.nullcontext, tensor_by_tensor],
                ids=["as a whole", "tensor by tensor"])  # fmt: skip
def _reading(request: pytest.FixtureRequest) -> Iterator[None]:
    """A backend may read whole lists, and leave to the checks what it does not take."""
    with request.param():
        yield


def _triples(shapes: list[tuple[int, ...]], dtype: torch.dtype, scale: float = 1.0) -> Triples:
    params = [torch.randn(shape).to(dtype) for shape in shapes]
    grads = [(torch.randn(shape) * scale).to(dtype) for shape in shapes]
    sums = [(torch.rand(shape) * 4).to(dtype) for shape in shapes]
    return params, grads, sums


def _assert_step(params: list, grads: list, sums: list, rule: Rule) -> None:
    """Run one step and compare every tensor and the norm with the definition."""
    before = [(p.clone(), s.clone()) for p, s in zip(params, sums, strict=True)]
    sq_norm = adagrad_step_(params, grads, sums, **rule.keywords())
    assert sq_norm.dtype == torch.float64
    assert sq_norm.shape == ()
    expected = allowed = 0.0
    for param, grad, total, old in zip(params, grads, sums, before, strict=True):
        assert_adagrad((param, total), old, extended(grad), rule)
        unscaled = extended(grad).reshape(-1) / rule.grad_scale
        expected = expected + (unscaled**2).sum()
        allowed = allowed + sq_norm_tolerance(unscaled, grad.dtype)
    if params:
        assert_within("sq_norm", sq_norm, expected, allowed)


@pytest.mark.parametrize("rule", RULES, ids=["plain", "decay", "ascent", "standstill"])
def test_matches_the_definition(backend: str, dtype: torch.dtype, rule: Rule) -> None:
    """All sizes in one call, and each in a call of its own."""
    shapes = [(size,) for size in SIZES]
    _assert_step(*_triples(shapes, dtype, min(rule.grad_scale, 100.0)), rule)
    for shape in (*shapes, (), (3, 5), (2, 3, 4, 5)):
        _assert_step(*_triples([shape], dtype), rule)


def test_many_small_and_one_large_tensor(backend: str) -> None:
    shapes = [(n % 23,) for n in range(300)] + [(300_001,)]
    _assert_step(*_triples(shapes, torch.float32), Rule(weight_decay=0.01))


def test_dtypes_may_differ_between_tensors(backend: str) -> None:
    lists: Triples = ([], [], [])
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32):
        for collected, new in zip(lists, _triples([(37,)], taken(dtype)), strict=True):
            collected += new
    _assert_step(*lists, Rule(weight_decay=0.02))


@pytest.mark.parametrize("offset", [1, 3])
def test_unaligned_tensors_and_their_neighbours(
    backend: str, dtype: torch.dtype, offset: int
) -> None:
    for size in SIZES:
        views = [guarded(tensor[0], offset) for tensor in _triples([(size,)], dtype)]
        _assert_step(*([view.tensor] for view in views), Rule(weight_decay=0.01))
        for view in views:
            view.assert_outside_untouched()


@pytest.mark.parametrize(
    "layout",
    [
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(0, 3).contiguous().transpose(0, 3),
        lambda t: t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    ],
    ids=["channels_last", "transposed", "permuted"],
)
def test_any_dense_layout_that_the_three_share(backend: str, dtype: torch.dtype, layout) -> None:
    lists = _triples([(4, 3, 5, 7)], dtype)
    plain = [tensor[0].clone() for tensor in lists]
    moved = [layout(tensor[0]) for tensor in lists]
    strides = moved[0].stride()
    assert strides != plain[0].stride()
    one = adagrad_step_(*([tensor] for tensor in plain), lr=0.1, weight_decay=0.1)
    other = adagrad_step_(*([tensor] for tensor in moved), lr=0.1, weight_decay=0.1)
    assert moved[0].stride() == strides
    assert torch.equal(plain[0], moved[0])
    assert torch.equal(plain[2], moved[2])
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


def test_a_dimension_of_one_may_have_any_stride(backend: str) -> None:
    lists = _triples([(1, 6)], torch.float32)
    odd = lists[1][0].as_strided((1, 6), (77, 1))
    _assert_step(lists[0], [odd], lists[2], Rule())


def test_empty_lists_and_empty_tensors(backend: str) -> None:
    assert adagrad_step_([], [], [], lr=0.1).item() == 0.0
    for shape in ((0,), (0, 3), (3, 0)):
        lists = [[torch.empty(shape)] for _ in range(3)]
        assert adagrad_step_(*lists, lr=0.1).item() == 0.0


def test_follows_torch_for_many_steps(backend: str) -> None:
    """Torch's own loop in float64, ten steps."""
    start = torch.randn(1000)
    theirs = torch.nn.Parameter(start.double())
    optimizer = torch.optim.Adagrad(
        [theirs], lr=0.1, weight_decay=0.01, initial_accumulator_value=0.5, foreach=False
    )
    ours, state_sum = start.clone(), torch.full((1000,), 0.5)
    for _ in range(10):
        grad = torch.randn(1000)
        theirs.grad = grad.double()
        optimizer.step()
        adagrad_step_([ours], [grad], [state_sum], lr=0.1, weight_decay=0.01)
    torch.testing.assert_close(ours.double(), theirs.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_element(
    backend: str, dtype: torch.dtype, value: float
) -> None:
    shapes = [(33,), (70,)]
    params, grads, sums = _triples(shapes, dtype)
    grads[1][40] = 0
    clean = [[t.clone() for t in tensors] for tensors in (params, grads, sums)]
    adagrad_step_(*clean, lr=0.1)
    grads[1][40] = value
    assert not adagrad_step_(params, grads, sums, lr=0.1).isfinite()
    assert not sums[1][40].isfinite()
    assert params[1][40].isnan()
    for ours, theirs in zip((*params, *sums), (*clean[0], *clean[2]), strict=True):
        if len(ours) == 70:
            ours[40] = theirs[40] = 0
        assert torch.equal(ours, theirs)


def test_first_step_from_zero_is_the_learning_rate(backend: str) -> None:
    """With an empty accumulator the update is lr * sign(g), and 0 where g is 0."""
    grad = torch.tensor([3.0, -1e-8, 0.0, 1e12, -5e-5])
    param, state_sum = torch.zeros(5), torch.zeros(5)
    adagrad_step_([param], [grad], [state_sum], lr=0.25)
    expected = torch.tensor([-0.25, 0.25 * 1e-8 / (1e-8 + 1e-10), 0.0, -0.25, 0.25])
    torch.testing.assert_close(param, expected, rtol=1e-5, atol=0)


def test_denormal_gradients_count(backend: str) -> None:
    """Squares may underflow; the step divides by eps then, and is not lost."""
    grad = torch.full((20,), 2.0**-140)
    param, state_sum = torch.zeros(20), torch.zeros(20)
    adagrad_step_([param], [grad], [state_sum], lr=1.0, eps=2.0**-130)
    torch.testing.assert_close(param, torch.full((20,), -(2.0**-10)), rtol=1e-3, atol=0)
