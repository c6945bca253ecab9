"""An error on one rank is that error on all, which nobody waits for."""

from __future__ import annotations

import failing_cases
import pytest
from support.ranks import Told, require_error, values

#: By case: the error, words of its message, and whether it is the last rank's own.
FAILS = {
    "gradients_gone_on_one_rank": ("ValueError", "is not in .grad", True),
    "not_a_number_on_one_rank": ("ValueError", "not finite", True),
    "samples_mixed_on_one_rank": ("UnsupportedModelError", "mixes the samples", True),
    "rows_that_are_no_samples_on_one_rank": ("", "rows", True),
    "the_forward_pass_goes_around_the_wrapper": ("ValueError", "nothing has reduced", False),
    "no_sync_is_left_on": ("ValueError", "leave no_sync()", False),
    "inner_products_without_losses": ("ValueError", "statistics(losses=...)", False),
    "a_hook_changes_a_gradient_before_it_is_reduced": ("ValueError", "was changed", True),
    "parameters_of_their_own_on_one_rank": ("ValueError", "trains another model", False),
    "parameters_of_their_own_under_micro_batches": ("ValueError", "trains another model", False),
    "a_learning_rate_of_its_own_on_one_rank": ("ValueError", "trains another model", False),
    "losses_of_too_few_samples_on_one_rank": ("ValueError", "losses() gave losses", True),
    "no_samples_on_any_rank": ("ValueError", "empty on every rank", False),
    "controllers_that_part": ("ValueError", "differ (rank 0: batch_size 24", False),
    "ranks_in_different_steps": ("ValueError", "in different steps", False),
    "per_sample_gradients_of_nothing_on_one_rank": ("ValueError", "no samples", True),
    "records_without_a_mean_on_one_rank": ("MissingStatisticError", "mean_gradient", True),
    "a_record_that_is_pooled_twice": ("ValueError", "already", False),
    "records_of_other_parameters_on_one_rank": ("ValueError", "different parameters", False),
    "no_backward_pass_on_one_rank": ("ValueError", "no gradient reached", True),
    "a_backward_pass_after_the_reduced_one": ("ValueError", "reduced over the ranks", False),
    "workers_of_one_rank": ("ValueError", "there is only one", False),
    "lookups_of_other_lengths_on_one_rank": ("ValueError", "accepted are equal", True),
}
BESIDES = {
    "not_a_number_that_is_recorded",
    "the_step_after_an_error_is_measured",
    "one_rank_does_not_come",
}


@pytest.mark.parametrize("case", FAILS)
def test_every_rank_gets_the_error(told: dict[str, list[Told]], case: str) -> None:
    kind, words, is_one_ranks = FAILS[case]
    require_error(told[case], words, is_one_ranks=is_one_ranks, kind=kind)


def test_controllers_keep_the_size_together(told: dict[str, list[Told]]) -> None:
    assert {*values(told["not_a_number_that_is_recorded"])} == {(24, 1)}


def test_an_error_leaves_the_next_step_as_it_is(told: dict[str, list[Told]]) -> None:
    assert {*values(told["the_step_after_an_error_is_measured"])} == {24}


def test_no_rank_waits_beyond_the_time_limit(told: dict[str, list[Told]]) -> None:
    *others, last = values(told["one_rank_does_not_come"])
    assert last == "did not come"
    for message, seconds in others:
        assert "did not get the numbers" in message
        assert seconds < 4 * failing_cases.SHORT + 10.0


def test_every_case_is_asserted(told: dict[str, list[Told]]) -> None:
    names = {case.__name__ for case in failing_cases.CASES}
    assert names == FAILS.keys() | BESIDES <= told.keys()
