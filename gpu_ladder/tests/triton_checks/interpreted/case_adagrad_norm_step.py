"""The cases of every backend, on Triton's kernels in the interpreter, and scalars in memory."""

import itertools

import pytest
import torch
from test_adagrad_norm_step import (
    _lists,
    test_a_zero_gradient_moves_nothing,
    test_any_dense_layout_with_one_accumulator,
    test_empty_lists,
    test_follows_the_published_rule_for_many_steps,
    test_many_small_and_one_large_tensor,
    test_matches_the_definition,
    test_the_one_accumulator_may_have_any_shape_with_one_element,
    test_unaligned_tensors_and_their_neighbours,
    test_what_is_not_finite_stays_in_its_row,
)

from adadagrad_kernels.backends import triton as triton_backend
from adadagrad_kernels.backends.rule import AdagradRule
from adadagrad_kernels.backends.triton.kernels import _lists as slots
from gpu_ladder.triton_checks.interpreter import checked

__all__ = [
    "test_a_zero_gradient_moves_nothing",
    "test_any_dense_layout_with_one_accumulator",
    "test_empty_lists",
    "test_follows_the_published_rule_for_many_steps",
    "test_many_small_and_one_large_tensor",
    "test_matches_the_definition",
    "test_the_one_accumulator_may_have_any_shape_with_one_element",
    "test_unaligned_tensors_and_their_neighbours",
    "test_what_is_not_finite_stays_in_its_row",
]

SHAPES = [(33,), (0,), (), (2500,), (7, 9), (3, 1100)]


@pytest.fixture(autouse=True)
def _few_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for a slot is a loop that the interpreter is slow at."""
    monkeypatch.setattr(slots, "SLOTS", 8)


def _step(
    lists: object, row_wise: bool, lr: object, grad_scale: object, found_inf: object = None
) -> torch.Tensor:
    with checked() as findings:
        result = triton_backend.adagrad_norm_step_(
            *lists, row_wise, AdagradRule(lr, 1e-10, 0.1, False, grad_scale, found_inf)
        )
    assert not findings
    return result


def _same(lists: object, others: object) -> bool:
    pairs = zip(itertools.chain(*lists), itertools.chain(*others), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("row_wise", [False, True])
def test_scalars_in_memory_are_like_numbers(dtype: torch.dtype, row_wise: bool) -> None:
    lists = _lists(SHAPES, dtype, row_wise)
    others = tuple([tensor.clone() for tensor in tensors] for tensors in lists)
    double = {"dtype": torch.float64}
    one = _step(lists, row_wise, 0.25, 3.0)
    other = _step(others, row_wise, torch.tensor(0.25, **double), torch.tensor(3.0, **double))
    assert torch.equal(one, other)
    assert _same(lists, others)


@pytest.mark.parametrize("row_wise", [False, True])
@pytest.mark.parametrize("found", [1.0, float("inf"), float("nan")])
def test_nothing_is_written_where_an_overflow_was_found(row_wise: bool, found: float) -> None:
    lists = _lists(SHAPES, torch.float32, row_wise)
    before = tuple([tensor.clone() for tensor in tensors] for tensors in lists)
    norm = _step(lists, row_wise, 0.25, 3.0, torch.tensor(found))
    assert _same(lists, before)
    assert torch.equal(norm, _step(lists, row_wise, 0.25, 3.0, torch.tensor(0.0)))
    assert not _same(lists, before)
