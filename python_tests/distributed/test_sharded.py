"""What ranks say of a sharded model is what one process says of all samples of a whole one."""

from __future__ import annotations

import failing_shards
import half_precision_cases
import pytest
import sharded_cases
from support.ranks import Told, require_error, values

#: By case: words of the error's message, and whether it is the last rank's own.
FAILS = {
    "samples_of_shards_mixed_on_one_rank": ("mixes the samples", True),
    "rows_of_shards_that_are_no_samples_on_one_rank": ("rows", True),
    "gradients_of_shards_gone_on_one_rank": ("is not in .grad", True),
    "gradients_of_shards_clipped_on_one_rank": ("was changed", True),
    "gradients_of_shards_clipped_between_micro_batches_on_one_rank": ("was changed", True),
    "rows_of_shards_that_are_no_samples_before_a_new_question": ("rows", True),
    "gradients_of_shards_dropped_between_micro_batches": ("was set to zero after", False),
    "gradients_of_shards_left_by_an_earlier_step": ("an earlier step is left in .grad", False),
    "sync_of_shards_is_left_off": ("is not in .grad", False),
    "parameters_of_one_replica_alone": ("trains another model", False),
    "losses_of_shards_on_some_ranks_alone": ("others do not", False),
    "losses_of_shards_of_too_few_samples": ("losses() gave losses", True),
    "products_of_shards_without_losses": ("statistics(losses=...)", False),
}


@pytest.mark.parametrize("case", [case.__name__ for case in sharded_cases.EXACT])
def test_records_are_those_of_all_samples(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        errors = dict(of_rank["errors"])
        products = errors.pop("sum_sq_inner_products", None)
        spread = errors.pop("noise_estimate", None)
        assert (spread is None) == (products is None)
        assert spread is None or spread < 1e-10
        assert errors.keys() == {
            "batch_size",
            "mean_sq_norm",
            "sum_sq_norms",
            "mean_gradient",
            "variance",
        }
        assert max(errors.values()) < 1e-12, errors
        assert products is None if case == "evaluated_between_steps" else products < 1e-12
        assert of_rank["bits"] == of_ranks[0]["bits"]


@pytest.mark.parametrize("case", [case.__name__ for case in half_precision_cases.CASES])
def test_records_in_half_precision_are_right_to_its_rounding(
    told: dict[str, list[Told]], case: str
) -> None:
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        assert max(of_rank["errors"].values()) < 1.5e-2, of_rank["errors"]
        assert of_rank["signal"] < 1e-6
        assert of_rank["bits"] == of_ranks[0]["bits"]


def test_products_by_a_difference_are_near(told: dict[str, list[Told]]) -> None:
    for of_rank in values(told["products_by_a_difference"]):
        assert 1e-12 < of_rank["errors"]["sum_sq_inner_products"] < 1e-4


def test_criteria_decide_on_parts_as_on_the_whole(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["tests_that_read_every_coordinate"])
    for ours, expected in of_ranks:
        assert ours == pytest.approx(expected, rel=1e-10)
        assert ours == of_ranks[0][0]


@pytest.mark.parametrize("case", FAILS)
def test_every_rank_gets_the_error(told: dict[str, list[Told]], case: str) -> None:
    words, is_one_ranks = FAILS[case]
    require_error(told[case], words, is_one_ranks=is_one_ranks)


def test_an_error_leaves_the_next_step_as_it_is(told: dict[str, list[Told]]) -> None:
    for sizes in values(told["the_step_after_an_error_of_shards_is_measured"]):
        assert sizes == [True, 24]


def test_every_failing_case_is_asserted() -> None:
    names = {case.__name__ for case in failing_shards.CASES}
    assert names == FAILS.keys() | {"the_step_after_an_error_of_shards_is_measured"}
