"""What stages of a pipeline say is what one process says of single samples of a whole model."""

from __future__ import annotations

import failing_pipelines
import pipeline_cases
import pytest
from support.ranks import Told, require_error, values

#: By case: words of the error's message, and whether it is the last rank's own.
FAILS = {
    "samples_mixed_in_the_last_stage": ("mixes the samples", True),
    "not_a_number_in_the_last_stage": ("not finite", False),
    "gradients_of_the_last_stage_clipped": ("was changed", True),
    "gradients_of_shards_of_the_last_stage_clipped": ("was changed", True),
    "gradients_left_in_the_last_stage": ("an earlier step is left in .grad", True),
    "a_table_tied_over_two_stages": ("are one: their values have changed", False),
    "another_step_of_a_schedule_that_divides": ("another step before statistics()", False),
    "another_step_with_inner_products": ("inner_products=False", False),
    "losses_in_a_pipeline": ("takes no losses", False),
    "schedules_that_divide_differently": ("by different numbers of micro-batches", False),
    "a_part_of_a_stage_alone": ("called alone", False),
    "stages_with_other_numbers_of_samples": ("different numbers of samples", False),
    "nothing_to_train_in_any_stage": ("no stage of the pipeline has a parameter", False),
    "several_stages_on_a_rank": ("ScheduleInterleaved1F1B", False),
    "gradients_of_inputs_and_of_parameters_apart": ("ScheduleInterleavedZeroBubble", False),
    "a_stage_without_its_pipeline": ("ranks=Ranks(pipeline=group)", False),
    "a_pipeline_among_others": ("Ranks(data=group, pipeline=group)", False),
    "per_sample_gradients_of_a_stage": ("PerSampleGradients got Ranks(pipeline", False),
    "local_gradients_of_a_stage": ("LocalGradients got Ranks(pipeline", False),
    "a_record_that_is_pooled_over_stages": ("pool got Ranks(pipeline", False),
    "records_of_a_pipeline_that_are_merged": ("do not merge", False),
    "inner_products_of_a_plan_in_a_stage": ("inner_products=False", False),
}
#: Which torch breaks off in the middle of a step, with an error of its own around ours.
UNEQUAL = "micro_batches_of_unequal_sizes", "micro_batches_of_unequal_sizes_one_by_one"
#: Of cases that measure no inner products.
WITHOUT_PRODUCTS = {
    "a_scaled_loss_in_a_pipeline",
    "two_steps_of_a_schedule_that_divides_nothing",
    "steps_that_are_not_measured",
    "pipelines_of_plans",
}


@pytest.mark.parametrize("case", [case.__name__ for case in pipeline_cases.EXACT])
def test_records_are_those_of_single_samples(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    of_stages = set()
    for of_rank in of_ranks:
        errors = of_rank["errors"]
        assert errors.keys() >= {"batch_size", "mean_sq_norm", "sum_sq_norms"}
        assert ("sum_sq_inner_products" in errors) == (case not in WITHOUT_PRODUCTS)
        spread = errors.pop("noise_estimate", None)
        assert spread is None if case in WITHOUT_PRODUCTS else spread < 1e-10
        assert max(errors.values()) < 1e-12, errors
        assert of_rank["bits"] == of_ranks[0]["bits"]
        of_stages |= {name for name in errors if name.startswith("variance of")}
    assert bool(of_stages) == (case != "steps_that_are_not_measured")


def test_criteria_decide_on_stages_as_on_the_whole(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["tests_decide_as_on_one_process"])
    for ours, expected in of_ranks:
        assert ours == pytest.approx(expected, rel=1e-10)
        assert ours == of_ranks[0][0]


@pytest.mark.parametrize("case", FAILS)
def test_every_rank_gets_the_error(told: dict[str, list[Told]], case: str) -> None:
    words, is_one_ranks = FAILS[case]
    stage = r"(rank \d of )?stage \d"
    require_error(told[case], words, is_one_ranks=is_one_ranks, place=stage)


@pytest.mark.parametrize("case", UNEQUAL)
def test_micro_batches_of_unequal_sizes_are_no_riddle(
    told: dict[str, list[Told]], case: str
) -> None:
    for rank, of_rank in enumerate(told[case]):
        assert of_rank.error == "RuntimeError", f"rank {rank}: {of_rank}"
        assert "ValueError: the micro-batches of a step have 6, 6, 5, 5 samples" in of_rank.trace
        assert "drop_last=True" in of_rank.trace


def test_an_error_leaves_the_next_step_as_it_is(told: dict[str, list[Told]]) -> None:
    for found in values(told["the_step_after_an_error_of_a_stage_is_measured"]):
        assert found == [True, 24]


def test_every_failing_case_is_asserted() -> None:
    names = {case.__name__ for case in failing_pipelines.CASES}
    besides = {"the_step_after_an_error_of_a_stage_is_measured", *UNEQUAL}
    assert names == FAILS.keys() | besides
