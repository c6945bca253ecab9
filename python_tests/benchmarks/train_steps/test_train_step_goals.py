"""Experiments of whole training steps, on small models; no test depends on the time it takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.train_step_cases import each_case

from adadagrad_kernels.statistics.measuring import pending
from benchmarks.measuring.experiment import Experiment, Settings, measured_rows
from benchmarks.train_steps import goals, layer_goals
from benchmarks.train_steps.models import Case, mlp
from benchmarks.train_steps.peers import peers
from benchmarks.train_steps.real_models import gpt2, resnet18
from benchmarks.train_steps.steps import QUANTITIES


def rows_of(experiment: Experiment) -> list[dict]:
    return list(measured_rows(experiment, rounds=2))


@each_case
def test_times_of_a_step(case: Case) -> None:
    threads = torch.get_num_threads()
    every = dict.fromkeys(QUANTITIES, 2.0)
    rows = rows_of(goals.step_times(case, every, threads=1))
    assert torch.get_num_threads() == threads
    ours, theirs = rows[:3], rows[3:]
    assert [row["what"] for row in ours] == [f"{q} / plain step" for q in QUANTITIES]
    assert all(row["measured"] > 0 for row in rows)
    assert all(row["chosen"] is None for row in ours)
    for row, quantity in zip(theirs, QUANTITIES, strict=True):
        assert row["chosen"] in peers(case, quantity)
        assert row["at_least"]


def test_memory_of_a_step() -> None:
    case = mlp(8, width=256)
    rows = rows_of(goals.step_memory(case))
    gradients = sum(p.nbytes for p in case.build().model.parameters())
    for row in rows:
        assert row["unit"] == "B"
        assert gradients <= row["denominator"] < 1.2 * gradients
        assert 0.9 < row["measured"] < 3
    assert rows == rows_of(goals.step_memory(case)), "the same bytes every time"


@pytest.mark.parametrize("quick", [True, False])
def test_every_case_has_its_rows(quick: bool) -> None:
    settings = Settings(size=1 << 20, threads=2, quick=quick)
    steps = list(goals.experiments(settings))
    titles = [e.title for e in [*steps, *layer_goals.experiments(settings)]]
    assert len(set(titles)) == len(titles)
    assert all("train" in title for title in titles), "what --only train looks for"
    times = [title for title in titles if title.startswith("train step")]
    assert len(times) == (3 + 8 if quick else 10 + 16)


def test_models_in_use_stand_beside_plain_steps_alone() -> None:
    case = resnet18()
    assert not any(peers(case, quantity) for quantity in QUANTITIES)
    times = goals.step_times(case, goals.FLOAT32_LIMITS, 2)
    assert [goal.what for goal in times.goals] == [f"{q} / plain step" for q in QUANTITIES]


def test_memory_leaves_out_what_the_rows_name() -> None:
    """One chunk of contributions where there are such, and the variance itself."""
    assert pending._CHUNK_BYTES == goals.CONTRIBUTIONS == 32 << 20
    memory = goals.step_memory(gpt2())
    assert memory.title.endswith("(C: 32 MiB of contributions)")
    assert [goal.what for goal in memory.goals] == [
        "norms less C / plain step",
        "norms + variance less C and D / plain step",
        "norms + inner products less C / plain step",
    ]
    memory = goals.step_memory(resnet18())
    assert "contributions" not in memory.title
    assert memory.goals[1].what == "norms + variance less D / plain step"


@pytest.mark.usefixtures("one_thread")
def test_memory_of_a_step_under_autocast() -> None:
    case = replace(resnet18(3, blocks=1, width=4), autocast=True)
    for row in rows_of(goals.step_memory(case)):
        # Without bfloat16 of its own a processor's plain step takes more, for wide copies.
        assert 0.7 < row["measured"] < 3


def test_long_steps_have_few_rounds() -> None:
    rounds = {e.title: e.most_rounds for e in goals.experiments(Settings(1, 2, False))}
    assert rounds["train step of ResNet-18, batch 64, 2 threads"] == goals.MOST_ROUNDS
    assert rounds["train step of MLP, batch 512, 2 threads"] is None
