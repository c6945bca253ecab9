"""What a step of several workers takes: run on every rank by ``support.ranks``."""

from __future__ import annotations

import time
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor

from adadagrad_kernels.training import probe
from adadagrad_kernels.training.branches import tested
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data, Samples
from adadagrad_kernels.training.data_sets import load_data
from adadagrad_kernels.training.worker_steps import steps_of_workers

#: Seconds that the last rank takes longer than the others.
LATE = 0.02


def config(**settings: Any) -> RunConfig:
    fixed = {"test": "none", "batch_size": 16, "max_batch": 16}
    return RunConfig(
        data="digits", model="logistic", optimizer="sgd", lr=0.1, samples=2_000,
        evaluate_every=1_000, log_every=1_000, **(fixed | settings),
    )  # fmt: skip


GROWING: dict[str, Any] = {
    "test": "norm", "eta": 0.8, "growth_cap": 1.5, "test_interval": 2,
    "batch_size": 16, "max_batch": 256,
}  # fmt: skip


def sizes_of_a_run() -> Any:
    every = steps_of_workers(config(**GROWING), load_data("digits", None))
    return [(controller.samples_seen, controller.batch_size) for controller in every]


def tests_at_one_size() -> Any:
    """Steps, and the sizes that their tests suggest, of a run whose size stays what it is."""
    every = steps_of_workers(tested(config(**GROWING), 32, 20 * 32), load_data("digits", None))
    found = []
    for controller in every:
        decision = controller.last_decision
        found.append((controller.batch_size, decision and decision.batch_size))
    return found


class _Late(Samples):
    """Those of a loader that the others wait for."""

    def select(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        time.sleep(LATE)
        return super().select(indices)


def rows_of_a_table() -> Any:
    """A table of a run without a test, and one of a run with a test and a rank that is late."""
    data = load_data("digits", None)
    late = Data(_Late(data.train.inputs, data.train.targets), data.test, data.checksum)
    is_last = dist.get_rank() == dist.get_world_size() - 1
    with mock.patch.object(probe, "SECONDS", 0.01):
        return [
            probe.steps_together(config(**settings), each, [4, 16])
            for each, settings in ((data, {}), (late if is_last else data, GROWING))
        ]


def a_network() -> Any:
    """Of which the last rank is the slowest: 1 ms, and 1 ms more for a megabyte."""
    slower = 1.0 if dist.get_rank() == dist.get_world_size() - 1 else 0.5
    with mock.patch.object(probe, "_reduction", lambda size: slower * (1e-3 + size * 1e-9)):
        return probe.network()


CASES = (sizes_of_a_run, tests_at_one_size, rows_of_a_table, a_network)
