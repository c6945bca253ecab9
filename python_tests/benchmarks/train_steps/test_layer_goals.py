"""Experiments of the gradients of single layers."""

from __future__ import annotations

import pytest

from benchmarks.measuring.experiment import Experiment, measured_rows
from benchmarks.train_steps import layer_goals


@pytest.mark.parametrize(
    "experiment",
    [layer_goals.linear(2, 5, 7, 3), layer_goals.conv(2, 3, 4, 6)],
    ids=["linear", "conv"],
)
def test_times_of_layers(experiment: Experiment) -> None:
    (row,) = measured_rows(experiment, rounds=2)
    assert row["measured"] > 0
