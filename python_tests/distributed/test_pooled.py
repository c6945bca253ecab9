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
        errors = dict(of_rank["errors"])
        # Differences of deviations, which cancel.
        assert errors.pop("noise_estimate", 0.0) < 1e-10
        assert max(errors.values()) < 1e-12, errors
        assert of_rank["bits"] == of_ranks[0]["bits"]


def test_a_record_in_half_precision_is_right_to_its_rounding(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["half_precision_with_a_scaler_in_a_wrapper"])
    for of_rank in of_ranks:
        assert max(of_rank["errors"].values()) < 5e-3, of_rank["errors"]
        assert of_rank["errors"]["batch_size"] == 0.0
        assert of_rank["bits"] == of_ranks[0]["bits"]


def test_inner_products_and_variance_are_among_them(told: dict[str, list[Told]]) -> None:
    for case in ("plain", "none_on_the_last_rank", "micro_batches_without_sync"):
        errors = values(told[case])[0]["errors"]
        assert {"sum_sq_inner_products", "variance"} <= errors.keys()


#: Unequal ranks, one with a single sample, one with none; several micro-batches; every source.
WITH_ERROR_BARS = (
    "plain",
    "one_sample_on_the_first_rank",
    "none_on_the_last_rank",
    "micro_batches_without_sync",
    "a_scaled_loss",
    "gradients_that_are_added_up",
    "per_sample_gradients",
    "per_sample_gradients_of_a_bare_model",
    "unequal_records_that_are_pooled_with_products",
)


@pytest.mark.parametrize("case", WITH_ERROR_BARS)
def test_error_bars_are_those_of_one_process(told: dict[str, list[Told]], case: str) -> None:
    for of_rank in values(told[case]):
        assert of_rank["errors"]["noise_estimate"] < 1e-10


def test_a_record_says_why_it_has_no_error_bars(told: dict[str, list[Told]]) -> None:
    for message in values(told["records_that_are_pooled_have_no_error_bars"]):
        assert "pool(..., inner_products=...)" in message


def test_products_on_some_ranks_alone_are_refused_on_all(told: dict[str, list[Told]]) -> None:
    for of_rank in told["pooled_products_on_one_rank_alone"]:
        assert of_rank.error == "ValueError"
        assert "some ranks pass inner_products and others do not" in of_rank.message
    for of_rank in told["pooled_products_of_too_few_samples"]:
        assert of_rank.error == "ValueError"
        assert "one for each sample of this record" in of_rank.message


@pytest.mark.parametrize("case", ["micro_batch_gradients", "worker_gradients"])
def test_estimates_are_those_of_the_formula(told: dict[str, list[Told]], case: str) -> None:
    of_ranks = values(told[case])
    for of_rank in of_ranks:
        assert math.isclose(of_rank["estimate"], of_rank["direct"], rel_tol=1e-12)
        assert of_rank["estimate"] == of_ranks[0]["estimate"]
        assert of_rank["size"] == 24 + (case == "worker_gradients")


def test_what_spectral_descent_sees_is_that_of_all_ranks(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["micro_batch_gradients"])
    for of_rank in of_ranks:
        assert of_rank["spectral"] == of_ranks[0]["spectral"]
        for name, (noise, signal) in of_rank["direct_spectral"].items():
            # Roots of eigenvalues that are zero are those of their rounding.
            assert math.isclose(of_rank["spectral"][name].noise, noise, rel_tol=1e-5)
            assert math.isclose(of_rank["spectral"][name].signal, signal, rel_tol=1e-7)


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
