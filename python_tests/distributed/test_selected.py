"""What ranks say of some layers, or of groups of parameters, is what one process says of them."""

from __future__ import annotations

import pytest
import selected_cases
from small_models import SAMPLES
from support.ranks import Told, require_error, values


def test_a_record_of_the_normalizations_is_that_of_all_samples(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["the_normalizations_alone"])
    for of_rank in of_ranks:
        assert of_rank["names"] == (["1.weight", "1.bias"],) * 2, "no others, not even zeros"
        errors = dict(of_rank["errors"])
        assert errors.keys() >= {"sum_sq_norms", "sum_sq_inner_products", "variance", ".grad"}
        assert errors.pop("noise_estimate") < 1e-10
        assert max(errors.values()) < 1e-12, errors
        assert of_rank["bits"] == of_ranks[0]["bits"]


@pytest.mark.parametrize(
    "case", ["groups_of_parameters", "groups_of_parameters_with_a_scaled_loss"]
)
def test_norms_of_groups_are_those_of_all_samples(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        assert of_rank.keys() == selected_cases.GROUPS.keys()
        for name, found in of_rank.items():
            assert found["samples"] == SAMPLES
            assert abs(found["N"]) < 1e-12
            assert abs(found["norms"]) < 1e-12
            assert found["bits"] == of_ranks[0][name]["bits"]


def test_a_group_that_splits_a_layer_is_named_on_every_rank(told: dict[str, list[Told]]) -> None:
    error = told["groups_that_split_a_layer_on_one_rank"]
    require_error(error, "put all parameters of a layer", is_one_ranks=True, kind="ValueError")


def test_groups_step_at_the_sizes_of_one_process(told: dict[str, list[Told]]) -> None:
    for run in values(told["a_batch_for_every_group"]):
        assert run["found"] == run["expected"]
        due = [names for names, _ in run["found"]]
        assert ["first"] in due or ["last"] in due, "not always both"
        assert run["found"][-1][1][0] != run["found"][-1][1][1]
        assert run["far"] < 1e-12


def test_a_difference_of_shards_has_the_same_draws_twice(told: dict[str, list[Told]]) -> None:
    for ratio in values(told["dropout_of_shards_by_a_difference"]):
        assert ratio == pytest.approx(1.0, rel=1e-5)
