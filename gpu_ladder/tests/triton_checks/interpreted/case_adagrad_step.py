"""The cases of every backend, on Triton's kernels in the interpreter, and scalars in memory."""

import itertools

import pytest
import torch
from test_adagrad_step import (
    _triples,
    test_a_dimension_of_one_may_have_any_stride,
    test_any_dense_layout_that_the_three_share,
    test_denormal_gradients_count,
    test_empty_lists_and_empty_tensors,
    test_first_step_from_zero_is_the_learning_rate,
    test_follows_torch_for_many_steps,
    test_many_small_and_one_large_tensor,
    test_matches_the_definition,
    test_unaligned_tensors_and_their_neighbours,
    test_what_is_not_finite_stays_in_its_element,
)

from adadagrad_kernels.backends import triton as triton_backend
from adadagrad_kernels.backends.rule import AdagradRule
from gpu_ladder.triton_checks.interpreter import checked

__all__ = [
    "test_a_dimension_of_one_may_have_any_stride",
    "test_any_dense_layout_that_the_three_share",
    "test_denormal_gradients_count",
    "test_empty_lists_and_empty_tensors",
    "test_first_step_from_zero_is_the_learning_rate",
    "test_follows_torch_for_many_steps",
    "test_many_small_and_one_large_tensor",
    "test_matches_the_definition",
    "test_unaligned_tensors_and_their_neighbours",
    "test_what_is_not_finite_stays_in_its_element",
]

SHAPES = [(33,), (0,), (), (2500,), (7, 9)]


def _step(lists: object, lr: object, grad_scale: object, found_inf: object = None) -> torch.Tensor:
    with checked() as findings:
        rule = AdagradRule(lr, 1e-10, 0.1, False, grad_scale, found_inf)
        result = triton_backend.adagrad_step_(*lists, rule)
    assert not findings
    return result


def _same(lists: object, others: object) -> bool:
    pairs = zip(itertools.chain(*lists), itertools.chain(*others), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_scalars_in_memory_are_like_numbers(dtype: torch.dtype) -> None:
    lists = _triples(SHAPES, dtype)
    others = tuple([tensor.clone() for tensor in tensors] for tensors in lists)
    double = {"dtype": torch.float64}
    one = _step(lists, 0.25, 3.0)
    other = _step(others, torch.tensor(0.25, **double), torch.tensor(3.0, **double))
    assert torch.equal(one, other)
    assert _same(lists, others)


@pytest.mark.parametrize("found", [1.0, float("inf"), float("nan")])
def test_nothing_is_written_where_an_overflow_was_found(dtype: torch.dtype, found: float) -> None:
    lists = _triples(SHAPES, dtype)
    before = tuple([tensor.clone() for tensor in tensors] for tensors in lists)
    norm = _step(lists, 0.25, 3.0, torch.tensor(found))
    assert _same(lists, before)
    assert torch.equal(norm, _step(lists, 0.25, 3.0, torch.tensor(0.0)))
    assert not _same(lists, before)
