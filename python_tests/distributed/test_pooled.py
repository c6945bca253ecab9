"""What ranks say together is what one process says of all their samples, the same bits on each."""

from __future__ import annotations

import math

import pooled_cases
import pytest
from support.ranks import Told, values


@pytest.mark.parametrize("case", [case.__name__ for case in pooled_cases.EXACT])
def test_records_are_those_of_all_samples(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        assert {"batch_size", "mean_sq_norm", "sum_sq_norms", "mean_gradient"} <= {
            *of_rank["errors"]
        }
        assert max(of_rank["errors"].values()) < 1e-12, of_rank["errors"]
        assert of_rank["bits"] == of_ranks[0]["bits"]


def test_inner_products_and_variance_are_among_them(told: dict[str, list[Told]]) -> None:
    for case in ("plain", "none_on_the_last_rank", "micro_batches_without_sync"):
        errors = values(told[case])[0]["errors"]
        assert {"sum_sq_inner_products", "variance"} <= errors.keys()


@pytest.mark.parametrize("case", ["micro_batch_gradients", "worker_gradients"])
def test_estimates_are_those_of_the_formula(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        assert math.isclose(of_rank["estimate"], of_rank["direct"], rel_tol=1e-12)
        assert of_rank["estimate"] == of_ranks[0]["estimate"]
        assert of_rank["size"] == 24 + (case == "worker_gradients")


def test_two_ranks_are_the_halves_of_a_batch(told: dict[str, list[Told]]) -> None:
    cosines = values(told["halves_of_two_ranks"])
    for ours, expected in cosines:
        if len(cosines) == 2:
            assert math.isclose(ours, expected, rel_tol=1e-9)
        else:
            assert ours is None


def test_lookups_of_all_ranks_count(told: dict[str, list[Told]]) -> None:
    for far, largest in values(told["embedding_mean"]):
        assert far < 1e-6 * largest


@pytest.mark.parametrize("case", ["adagrad_norm_of_shards", "adagrad_norm_of_shards_and_decay"])
def test_norms_are_those_of_all_shards(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    for run in of_ranks:
        assert run["far"] < 1e-12
        assert run["sums"] == pytest.approx(run["expected"], rel=1e-12)
        assert run["sums"] == of_ranks[0]["sums"]
        assert run["norm"] == of_ranks[0]["norm"]


def test_a_wrapped_model_is_stepped_along_like_one(told: dict[str, list[Told]]) -> None:
    assert max(values(told["adagrad_norm_of_a_wrapper"])) < 1e-12


def test_samplers_draw_every_sample_once(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["batches_of_a_sampler"])
    drawn = [sample for batches in of_ranks for batch in batches for sample in batch]
    assert sorted(drawn) == list(range(22))
    assert len({len(batches) for batches in of_ranks}) == 1


def test_a_run_is_that_of_one_process(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["a_training_run"])
    for run in of_ranks:
        assert run["sizes"] == run["expected"] == of_ranks[0]["sizes"]
        assert run["sizes"][-1] > run["sizes"][0]
        assert run["far"] < 1e-12
        assert run["bits"] == of_ranks[0]["bits"]
