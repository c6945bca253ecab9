"""In a world above one nothing is silently of one rank alone: every rank gets the way out."""

from __future__ import annotations

import importlib.util

import pytest
import refused_cases
from support.ranks import Told

#: By case: the error, and words of its message.
REFUSED = {
    "layer_statistics_of_a_bare_model": ("ValueError", "ranks='local'"),
    "layer_statistics_of_the_module_of_a_wrapper": ("ValueError", "pass the wrapper itself"),
    "per_sample_gradients_without_a_wrapper": ("ValueError", "PerSampleGradients(Distributed"),
    "backward_with_statistics_of_a_bare_model": ("ValueError", "ranks='local'"),
    "micro_batch_gradients_without_a_wrapper": ("ValueError", "MicroBatchGradients(Distributed"),
    "lookups_of_one_rank": ("ValueError", "ranks=Ranks(), which counts over all"),
    "sparse_svrg": ("ValueError", "gather the rows of all ranks"),
    "no_such_ranks": ("ValueError", "ranks must be 'auto', 'local', a process group or Ranks"),
    "entered_before_its_wrapping": ("ValueError", "make the wrapper first"),
    "micro_batches_before_the_wrapping": ("ValueError", "make the wrapper first"),
    "statistics_of_one_rank_decide": ("ValueError", "one rank's samples"),
    "per_sample_statistics_of_one_rank_decide": ("ValueError", "one rank's samples"),
    "per_sample_statistics_of_one_rank_set_a_rate": ("ValueError", "decide on a learning rate"),
    "samples_of_one_rank_counted_with_the_pooled_record": ("ValueError", "of all ranks"),
    "samples_of_one_rank_counted_by_step": ("ValueError", "this rank's share"),
    "a_sampler_with_other_data_on_every_rank": ("ValueError", "samples is 100, 101"),
    "a_sampler_that_is_told_its_rank_with_other_data": ("ValueError", "samples is 100, 101"),
    "samplers_of_one_share": ("ValueError", "the ranks draw the same samples: rank is 0, 0"),
    "a_sampler_without_data_on_the_last_rank": ("ValueError", "the dataset has 0 samples"),
    "fixed_sizes_that_differ": ("ValueError", "batch_size is 8, 16"),
    "schedules_that_differ": ("ValueError", "criterion is MilestoneSchedule(milestones={0: 8, 10"),
    "a_batch_smaller_than_the_world": ("ValueError", "too few for 1 on each of"),
    "a_rank_beyond_the_world": ("ValueError", "rank must be below world_size"),
    "a_resume_into_another_optimizer": ("ValueError", "has no eps: it is of another optimizer"),
    "a_resume_into_another_model": ("ValueError", "but its parameter has"),
    "a_resume_with_another_criterion": ("ValueError", "make them the same to resume"),
    "a_resume_with_other_data": ("ValueError", "saved with size=101"),
    "a_loader_that_accelerate_has_prepared": ("ValueError", "do not pass the DataLoader"),
    "per_sample_gradients_of_shards": ("UnsupportedModelError", "'0.weight' is a DTensor"),
    "micro_batch_gradients_of_shards": ("UnsupportedModelError", "'0.weight' is a DTensor"),
    "statistics_of_one_ranks_shards": ("ValueError", "none of which has a gradient of its own"),
    "shards_of_other_ranks": ("ValueError", "just those of the parameters' mesh"),
    "a_parameter_that_is_not_sharded": ("UnsupportedModelError", "'1.weight' is a Parameter"),
    "a_module_without_a_kernel_that_is_sharded": ("UnsupportedModelError", "'1' (PReLU)"),
    "some_layers_of_shards": ("UnsupportedModelError", "only=None; DistributedDataParallel"),
    "groups_of_shards": ("UnsupportedModelError", "groups=None; DistributedDataParallel"),
    "products_with_the_covariance_over_ranks": (
        "UnsupportedModelError",
        "over several ranks leave them out",
    ),
    "single_products_with_the_covariance_over_ranks": ("ValueError", "or leave them out"),
    "norms_of_groups_of_one_rank_decide": ("ValueError", "one rank's samples"),
    "forward_mode_of_a_plan": ("UnsupportedModelError", "exact=False"),
    "a_norm_of_some_features_outside_of_a_plan": ("ValueError", "a place in the plan"),
    "samples_that_a_plan_shares_out": ("ValueError", "an input of"),
    "a_plan_inside_of_another_world": ("ValueError", "pass ranks=group"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_rank_gets_the_error(told: dict[str, list[Told]], case: str) -> None:
    if "accelerate" in case and importlib.util.find_spec("accelerate") is None:
        pytest.skip("accelerate is not installed")
    kind, words = REFUSED[case]
    for rank, of_rank in enumerate(told[case]):
        assert of_rank.error == kind, f"rank {rank}: {of_rank}"
        assert words in of_rank.message, f"rank {rank}: {of_rank.message}"


def test_every_case_is_asserted(told: dict[str, list[Told]]) -> None:
    assert {case.__name__ for case in refused_cases.CASES} == REFUSED.keys() <= told.keys()
