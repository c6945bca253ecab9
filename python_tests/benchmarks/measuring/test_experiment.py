"""Goals, and the rows that an experiment gives."""

from __future__ import annotations

import pytest

from benchmarks.measuring import experiment
from benchmarks.measuring.experiment import Experiment, Goal, measured_rows


def test_goals_know_their_direction() -> None:
    at_most = Goal("", "a", "b", 1.2)
    at_least = Goal("", "a", "b", 3.0, at_least=True)
    assert [at_most.met(ratio) for ratio in (1.1, 1.2, 1.3)] == [True, True, False]
    assert [at_least.met(ratio) for ratio in (2.9, 3.0, 3.1)] == [False, True, True]


def test_an_experiment_may_ask_for_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def rounds_of_seconds(contenders: dict, rounds: int) -> dict:
        asked.append(rounds)
        return {name: [1.0, 2.0] for name in contenders}

    monkeypatch.setattr(experiment, "rounds_of_seconds", rounds_of_seconds)
    goals = [Goal("", "one", "other", 1.0)]
    few = Experiment("", lambda: {"one": print, "other": print}, goals, most_rounds=3)
    for rounds in (9, 2):
        list(measured_rows(few, rounds))
    assert asked == [3, 2]
