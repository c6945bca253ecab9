"""`batch_adagrad_step_`: the statistics of `batch_moments` and AdaGrad's step along the mean."""

from __future__ import annotations

import pytest
import torch
from support.buffers import guarded, per_sample_grads
from support.oracles import Rule, assert_adagrad, assert_moments, shared_case

from adadagrad_kernels.ops import adagrad_step_, batch_adagrad_step_, batch_moments

SHAPES = [
    (1, 1), (1, 33), (2, 0), (2, 7), (3, 8), (5, 9), (8, 15), (9, 16), (31, 17), (64, 31),
    (64, 4099), (100, 1023), (513, 33), (2000, 65), (5000, 9), (2, 20_001),
]  # fmt: skip
RULES = [
    Rule(),
    Rule(lr=0.1, eps=1e-3, weight_decay=0.01),
    Rule(maximize=True, weight_decay=0.1),
]


def _param_and_sum(features: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(features).to(dtype), (torch.rand(features) + 0.1).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_matches_the_definition(backend: str, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    grads, expected = shared_case(*shape, dtype)
    for rule in RULES:
        before = _param_and_sum(shape[1], dtype)
        after = tuple(tensor.clone() for tensor in before)
        settings = rule.keywords("grad_scale")
        moments = batch_adagrad_step_(*after, grads, **settings, variance=shape[0] > 1)
        assert_moments(moments, expected)
        assert_adagrad(after, before, expected.mean[0], rule, expected.mean[1])


@pytest.mark.parametrize("shape", [(60_000, 10), (3, 100_001)], ids=["tall", "wide"])
def test_matches_the_definition_at_extreme_shapes(backend: str, shape: tuple[int, int]) -> None:
    grads, expected = shared_case(*shape, torch.float32)
    before = _param_and_sum(shape[1], torch.float32)
    after = tuple(tensor.clone() for tensor in before)
    moments = batch_adagrad_step_(*after, grads, lr=0.1, weight_decay=0.01)
    assert_moments(moments, expected)
    rule = Rule(lr=0.1, weight_decay=0.01)
    assert_adagrad(after, before, expected.mean[0], rule, expected.mean[1])


@pytest.mark.parametrize("variance", [False, True])
@pytest.mark.parametrize("inner_products", [False, True])
def test_is_the_two_ops_one_after_the_other(
    backend: str, dtype: torch.dtype, variance: bool, inner_products: bool
) -> None:
    """The same statistics bit by bit, and the same step up to the rounding of the mean."""
    asked = {"variance": variance, "inner_products": inner_products}
    for shape in ((9, 4099), (700, 130), (5000, 17)):
        grads = per_sample_grads(*shape, dtype).tensor
        param, state_sum = _param_and_sum(shape[1], dtype)
        one, total = param.clone(), state_sum.clone()
        moments = batch_adagrad_step_(one, total, grads, lr=0.1, weight_decay=0.01, **asked)
        for ours, alone in zip(moments, batch_moments(grads, **asked), strict=True):
            assert ours is alone is None or torch.equal(ours, alone)
        mean = moments.mean.to(dtype)
        adagrad_step_([param], [mean], [state_sum], lr=0.1, weight_decay=0.01)
        close = {torch.bfloat16: 2e-2, torch.float16: 3e-3}.get(dtype, 1e-6)
        torch.testing.assert_close(one, param, rtol=close, atol=close)
        torch.testing.assert_close(total, state_sum, rtol=close, atol=close)


@pytest.mark.parametrize(("offset", "padding"), [(1, 0), (0, 1), (3, 5), (1, 61)])
def test_views_and_their_neighbours(
    backend: str, dtype: torch.dtype, offset: int, padding: int
) -> None:
    for shape in ((2, 1), (9, 31), (17, 1030), (600, 33)):
        grads = per_sample_grads(*shape, dtype, padding=padding, offset=offset)
        before = _param_and_sum(shape[1], dtype)
        views = [guarded(tensor, offset) for tensor in before]
        copy = grads.tensor.clone()
        moments = batch_adagrad_step_(views[0].tensor, views[1].tensor, grads.tensor, lr=0.125)
        _, expected = shared_case(*shape, dtype)
        assert_moments(moments, expected)
        after = (views[0].tensor, views[1].tensor)
        assert_adagrad(after, before, expected.mean[0], Rule(), expected.mean[1])
        for view in (*views, grads):
            view.assert_outside_untouched()
        assert torch.equal(grads.tensor, copy)


def test_param_may_have_any_shape(backend: str) -> None:
    grads = per_sample_grads(7, 24, torch.float32).tensor
    param, state_sum = _param_and_sum(24, torch.float32)
    shaped, total = param.clone().view(2, 3, 4), state_sum.clone().view(2, 3, 4)
    batch_adagrad_step_(param, state_sum, grads, lr=0.1)
    batch_adagrad_step_(shaped, total, grads, lr=0.1)
    assert torch.equal(shaped.view(-1), param)
    assert torch.equal(total.view(-1), state_sum)
    scalar, scalar_sum = torch.ones(()), torch.zeros(())
    batch_adagrad_step_(scalar, scalar_sum, grads[:, :1], lr=0.5)
    assert scalar.item() == pytest.approx(1 - 0.5 * float(grads[:, 0].mean().sign()))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_coordinate(
    backend: str, dtype: torch.dtype, value: float
) -> None:
    for samples, features in ((3, 40), (70, 1025), (600, 20)):
        grads = per_sample_grads(samples, features, dtype).tensor.clone()
        grads[2, 17] = 0
        before = _param_and_sum(features, dtype)
        clean = tuple(tensor.clone() for tensor in before)
        batch_adagrad_step_(*clean, grads, lr=0.1)
        grads[2, 17] = value
        batch_adagrad_step_(*before, grads, lr=0.1)
        assert before[0][17].isnan()
        assert not before[1][17].isfinite()
        for ours, theirs in zip(before, clean, strict=True):
            ours[17] = theirs[17] = 0
            assert torch.equal(ours, theirs)
