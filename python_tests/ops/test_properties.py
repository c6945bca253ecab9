"""Every op against its definition, over shapes, strides, offsets, dtypes and values."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from support import oracles
from support.buffers import Guarded, guarded, taken
from support.oracles import Rule, assert_adagrad, assert_adagrad_norm, assert_moments
from support.tolerances import extended

from adadagrad_kernels.ops import (
    adagrad_norm_step_,
    adagrad_step_,
    batch_adagrad_step_,
    batch_moments,
)

# The backend stays the same during all examples of a test, so its fixture need not be made anew.
explore = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])

# Squares of the widest float16 sums stay below its largest number, 65,504.
LIMIT = 100.0


def _values(shape: tuple[int, ...], low: float = -LIMIT) -> st.SearchStrategy[np.ndarray]:
    return npst.arrays(np.float32, shape, elements=st.floats(low, LIMIT, width=32))


@st.composite
def placed(draw: st.DrawFn, values: np.ndarray, dtype: torch.dtype) -> Guarded:
    """The values somewhere in a buffer; a matrix with some distance between its rows."""
    tensor = torch.from_numpy(values).to(dtype)
    strides = list(tensor.stride())
    if tensor.dim() == 2:
        strides = [tensor.shape[1] + draw(st.integers(0, 9)), 1]
    return guarded(tensor, draw(st.integers(0, 7)), strides)


@st.composite
def gradients(draw: st.DrawFn, dtype: torch.dtype) -> Guarded:
    shape = draw(st.tuples(st.integers(1, 40), st.integers(0, 70)))
    centre = draw(st.sampled_from([0.0, 1.0, 1000.0]))
    return draw(placed(draw(_values(shape)) + np.float32(centre), dtype))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    return Rule(
        lr=draw(st.sampled_from([0.0, 0.01, 1.0])),
        eps=draw(st.sampled_from([1e-10, 1e-3])),
        weight_decay=draw(st.sampled_from([0.0, 0.01, 0.5])),
        maximize=draw(st.booleans()),
        grad_scale=draw(st.sampled_from([1.0, 3.0, 1024.0])),
    )


@explore
@given(st.data(), DTYPES, st.booleans(), st.booleans())
def test_batch_moments(
    backend: str, data: st.DataObject, dtype: torch.dtype, variance: bool, inner_products: bool
) -> None:
    dtype = taken(dtype)
    grads = data.draw(gradients(dtype))
    variance &= len(grads.tensor) > 1
    actual = batch_moments(grads.tensor, variance=variance, inner_products=inner_products)
    assert_moments(actual, oracles.batch_moments(grads.tensor))
    grads.assert_outside_untouched()


@explore
@given(st.data(), DTYPES, rules())
def test_batch_adagrad_step(
    backend: str, data: st.DataObject, dtype: torch.dtype, rule: Rule
) -> None:
    dtype = taken(dtype)
    grads = data.draw(gradients(dtype))
    samples, features = grads.tensor.shape
    param = data.draw(placed(data.draw(_values((features,))), dtype))
    # Not near zero, where the rounding of the mean would decide the direction of the step.
    state = data.draw(placed(data.draw(_values((features,), low=0.5)), dtype))
    if dtype == torch.float16:
        grads.tensor.clamp_(-LIMIT, LIMIT)
    before = param.tensor.clone(), state.tensor.clone()
    moments = batch_adagrad_step_(
        param.tensor,
        state.tensor,
        grads.tensor,
        **rule.keywords("grad_scale"),
        variance=samples > 1,
    )
    expected = oracles.batch_moments(grads.tensor)
    assert_moments(moments, expected)
    after, rule = (param.tensor, state.tensor), rule._replace(grad_scale=1.0)
    assert_adagrad(after, before, expected.mean[0], rule, expected.mean[1])
    for view in (grads, param, state):
        view.assert_outside_untouched()


def _shapes(max_dims: int) -> st.SearchStrategy[list[tuple[int, ...]]]:
    shape = npst.array_shapes(min_dims=0, max_dims=max_dims, min_side=0, max_side=37)
    return st.lists(shape, max_size=5)


@st.composite
def updates(draw: st.DrawFn) -> tuple[list[Guarded], list[Guarded], list[Guarded]]:
    """Parameters, gradients and non-negative sums; each triple with a dtype of its own."""
    lists: tuple[list[Guarded], ...] = ([], [], [])
    for shape in draw(_shapes(max_dims=2)):
        dtype = taken(draw(DTYPES))
        for collected, low in zip(lists, (-LIMIT, -LIMIT, 0.0), strict=True):
            values = draw(_values(shape, low))
            contiguous = torch.from_numpy(values).to(dtype)
            collected.append(guarded(contiguous, draw(st.integers(0, 7))))
    return lists


@explore
@given(updates(), rules())
def test_adagrad_step(
    backend: str, lists: tuple[list[Guarded], list[Guarded], list[Guarded]], rule: Rule
) -> None:
    params, grads, sums = ([view.tensor for view in views] for views in lists)
    before = [(p.clone(), s.clone()) for p, s in zip(params, sums, strict=True)]
    adagrad_step_(params, grads, sums, **rule.keywords())
    for param, grad, total, old in zip(params, grads, sums, before, strict=True):
        assert_adagrad((param, total), old, extended(grad), rule)
    for view in itertools.chain(*lists):
        view.assert_outside_untouched()


@explore
@given(updates(), rules(), st.booleans(), st.floats(0, 1e6))
@example(([], [], []), Rule(), True, 0.0)
def test_adagrad_norm_step(
    backend: str,
    lists: tuple[list[Guarded], list[Guarded], list[Guarded]],
    rule: Rule,
    row_wise: bool,
    start: float,
) -> None:
    params, grads, _ = ([view.tensor for view in views] for views in lists)
    rows = [p.shape[0] if p.dim() else 1 for p in params] if row_wise else [1]
    sums = [torch.full((n,), start, dtype=torch.float64) for n in rows]
    before = [p.clone() for p in params], [s.clone() for s in sums]
    adagrad_norm_step_(params, grads, sums if row_wise else sums[0], **rule.keywords())
    assert_adagrad_norm((params, sums), before, grads, rule, row_wise)
    for view in itertools.chain(*lists):
        view.assert_outside_untouched()
