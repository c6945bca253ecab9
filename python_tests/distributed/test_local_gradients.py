"""The batch of a round of local steps follows from the ranks' last gradients, as published."""

from __future__ import annotations

import re

import pytest
from support.ranks import Told, values


def test_the_record_is_that_of_the_formula(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["last_gradients"])
    for of_rank in of_ranks:
        assert of_rank["samples"] == 23
        for ours, expected in (of_rank["signal"], of_rank["variance"]):
            assert ours == pytest.approx(expected, rel=1e-12)
        assert of_rank["untouched"]
        assert of_rank["variance"][0] == of_ranks[0]["variance"][0]


def test_the_norm_test_asks_for_the_papers_size(told: dict[str, list[Told]]) -> None:
    for ours, expected in values(told["the_papers_size"]):
        assert ours == pytest.approx(expected, rel=1e-12)


def test_an_unused_parameter_counts_as_zero(told: dict[str, list[Told]]) -> None:
    for ours, expected in values(told["a_parameter_that_one_rank_does_not_use"]):
        assert ours == pytest.approx(expected, rel=1e-12)


def test_a_run_is_that_of_ranks_played_by_one_process(told: dict[str, list[Told]]) -> None:
    of_ranks = values(told["rounds_of_local_steps"])
    for run in of_ranks:
        assert run["sizes"] == run["expected"] == of_ranks[0]["sizes"]
        assert run["sizes"][-1] > run["sizes"][0]
        assert run["far"] < 1e-12
        assert len(run["bits"]) > 1
        assert run["bits"] == of_ranks[0]["bits"]


def test_a_rank_without_a_gradient_is_an_error_on_all(told: dict[str, list[Told]]) -> None:
    for rank, of_rank in enumerate(told["no_gradient_on_the_first_rank"]):
        assert of_rank.error == "ValueError"
        assert "no parameter has a gradient" in of_rank.message
        assert of_rank.message.startswith("rank 0: ") == (rank > 0)


def test_ranks_that_train_other_parameters_are_an_error_on_all(
    told: dict[str, list[Told]],
) -> None:
    """Before their gradients are added up, which would abort the process."""
    for of_rank in told["a_layer_frozen_on_the_first_rank"]:
        assert of_rank.error == "ValueError"
        assert re.search(r"ranks train (\d+), (?!\1)\d+", of_rank.message)


def test_a_wrapper_that_averages_gradients_is_refused(told: dict[str, list[Told]]) -> None:
    for of_rank in told["a_wrapper_around_the_model"]:
        assert of_rank.error == "ValueError"
        assert "WorkerGradients for the wrapper" in of_rank.message
