"""Other ways to the statistics of a step, beside ours."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.train_step_cases import each_case

from benchmarks.train_steps import goals
from benchmarks.train_steps.models import Case, cnn, mlp
from benchmarks.train_steps.peers import peers
from benchmarks.train_steps.steps import NORMS, PRODUCTS, QUANTITIES, checked


@pytest.mark.usefixtures("one_thread")
@each_case
def test_vmap_adds_up_over_its_chunks(case: Case) -> None:
    chunked = replace(case, chunk=2)
    for quantity in QUANTITIES:
        checked(chunked, peers(chunked, quantity)["vmap(grad) in chunks"], quantity)


def test_peers_that_hold_all_gradients_are_left_out_of_large_cases() -> None:
    assert "ExpandedWeights" in peers(cnn(512), NORMS)
    assert not {"ExpandedWeights", "vmap(grad) in chunks"} & peers(mlp(512), NORMS).keys()
    assert peers(mlp(512), PRODUCTS) == {}
    times = goals.step_times(mlp(512), goals.MLP_LIMITS, 1)
    assert not any(goal.what == f"best peer / ours: {PRODUCTS}" for goal in times.goals)
