"""The harness of the papers' experiments, against trainings that are written out by hand."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sparse_data
import torch
from plan import Plan, controller_of, next_batch
from scipy.sparse import csr_matrix
from targets import Targets, at
from torch import nn
from torch.nn import functional as F
from training import Task, Training

from adadagrad_kernels import (
    AdaptiveBatchSampler,
    BatchController,
    NormTest,
    PerSampleGradients,
)
from adadagrad_kernels.cli.progress import Progress

QUIET = Progress("", 1, quiet=True)
ADAPTIVE = {"growth": {"rule": "norm", "eta": 0.5}, "max_batch": 24}


def regression(seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(40, 3, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    targets += torch.randn(40, 1, generator=generator)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).square().sum()

    def metrics(model: nn.Module) -> dict[str, float]:
        with torch.no_grad():
            return {"train_loss": F.mse_loss(model(inputs), targets).item()}

    return Task(inputs, targets, partial(nn.Linear, 3, 1), loss, metrics)


def plan(**changes) -> Plan:
    settings = {
        "method": "SGD",
        "optimizer": {"kind": "sgd", "lr": 0.05},
        "batch_size": 4,
        "samples": 200,
        "evaluate_every": 20,
        "targets": {"train_loss": [3.0, 1.5, 1e-9]},
        "micro_batch": 5,
    }
    return Plan(**{**settings, **changes})


def train(plan: Plan, task: Task | None = None, seed: int = 3) -> Training:
    training = Training(task or regression(), plan, seed, QUIET)
    training.result = training.run()
    return training


def test_a_training_takes_the_steps_that_are_written_out_here() -> None:
    """Batches, norm test and momentum, with whole batches in place of micro-batches."""
    optimizer = {"kind": "sgd", "lr": 0.05, "momentum": 0.5}
    found = train(plan(optimizer=optimizer, **ADAPTIVE))
    task = regression()
    torch.manual_seed(3)
    model = task.build()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    controller = BatchController(NormTest(0.5), batch_size=4, max_batch_size=24)
    source = PerSampleGradients(model, F.mse_loss)
    order = iter([i for batch in whole_order(found) for i in batch])
    left = 200
    while left:
        size = controller.batch_size
        size = (left + 1) // 2 if size < left < 2 * size else min(size, left)
        rows = torch.tensor([next(order) for _ in range(size)])
        sgd.zero_grad()
        statistics = source.backward(task.inputs[rows], task.targets[rows])
        controller.update(statistics)
        sgd.step()
        left -= size
    assert controller.batch_size == found.controller.batch_size == 24
    assert controller.steps == found.result["steps"]
    torch.testing.assert_close(list(model.parameters()), list(found.model.parameters()))


def whole_order(training: Training):
    """All indices of the budget in the sampler's order, which no batch size changes."""

    return AdaptiveBatchSampler(40, 1, seed=training.sampler.seed, total_samples=200)


def test_targets_are_those_of_the_trajectory() -> None:
    """Steps, samples and the first evaluation that met a target, from the whole curve."""
    result = train(plan()).result
    curve = result["curve"]
    assert [point["samples"] for point in curve] == list(range(0, 201, 20))
    for value in (3.0, 1.5):
        first = next(point for point in curve if point["train_loss"] <= value)
        reached = at(result, "train_loss", value)
        assert (reached["steps"], reached["samples"]) == (first["steps"], first["samples"])
        assert reached["seconds"] == pytest.approx(first["seconds"], rel=1e-4)
    assert at(result, "train_loss", 1e-9) is None
    assert not result["diverged"]
    assert result["final"] == pytest.approx(curve[-1], rel=1e-4)


def test_the_first_of_several_evaluations_counts() -> None:
    targets = Targets({"test_accuracy": [0.5, 0.9], "test_loss": [1.0]})
    for step, accuracy, loss in [(1, 0.4, 2.0), (2, 0.5, math.nan), (3, 0.45, 1.0), (4, 0.8, 0.5)]:
        targets.see({"test_accuracy": accuracy, "test_loss": loss}, {"steps": step})
    assert targets.reached == {
        "test_accuracy 0.5": {"steps": 2},
        "test_accuracy 0.9": None,
        "test_loss 1": {"steps": 3},
    }


def test_fixed_sizes_cost_no_statistics_and_tested_ones_are_counted() -> None:
    assert train(plan()).result["statistics_seconds"] == 0.0
    adaptive = train(plan(**ADAPTIVE)).result
    # A difference of timings: on a busy machine it may be below zero.
    assert adaptive["statistics_seconds"] != 0.0
    assert adaptive["statistics_seconds"] < adaptive["seconds"]


def test_a_loss_that_is_no_number_ends_a_run() -> None:
    result = train(plan(optimizer={"kind": "sgd", "lr": 1e9}, **ADAPTIVE)).result
    assert result["diverged"]
    assert result["samples"] < 200


def test_doubling_and_what_is_left_of_a_budget() -> None:
    doubling = plan(growth={"rule": "doubling", "every": 50}, max_batch=16)
    controller = controller_of(doubling, 100, nn.Linear(1, 1), None)
    sizes = []
    while controller.samples_seen < 200:
        sizes.append(min(next_batch(doubling, controller), 200 - controller.samples_seen))
        controller.step(sizes[-1])
    # 52 samples in fours, 48 in eights, 96 in sixteens, and the rest in two halves.
    assert sizes == [4] * 13 + [8] * 6 + [16] * 5 + [10, 10]


def test_the_rate_of_a_cosine() -> None:
    cosine = plan(shape="cosine", warmup=0.1, floor=0.2)
    rates = [cosine.rate(samples) for samples in (0, 10, 20, 110, 200)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2])


@pytest.mark.parametrize(
    "growth", [{"rule": "norm", "eta": 0.5}, {"rule": "doubling", "every": 40}]
)
def test_a_rate_follows_a_batch_that_grows(growth: dict) -> None:
    """The last step's rate is the first one's, times the growth."""
    training = train(plan(on_growth=0.5, growth=growth, max_batch=24))
    assert training.result["batch"] == 24
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * 6**0.5)


def test_sparse_rows_are_the_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training on sparse rows, and one on the same rows written out."""

    generator = np.random.default_rng(0)
    dense = generator.standard_normal((30, 6)) * (generator.random((30, 6)) < 0.4)
    rows = csr_matrix(dense.astype(np.float32))
    labels = (generator.random(30) < 0.5).astype(np.float32)
    data = sparse_data.DataSet(rows, labels)
    found = []
    for limit in (1000, 3):
        monkeypatch.setattr(sparse_data, "DENSE_FEATURES", limit)
        task = sparse_data.regression(data, data)
        training = train(plan(samples=90, targets={}, evaluate_every=90), task)
        found.append((list(training.model.parameters()), training.result["final"]["train_loss"]))
    torch.testing.assert_close(found[0], found[1])


def test_labels_of_many_classes_become_two(tmp_path: Path) -> None:

    path = tmp_path / "rows"
    path.write_text("3 1:0.5 4:2\n1 2:1\n7 1:1\n9 3:1\n")
    data = sparse_data.read(path, 4)
    rows = [[0.5, 0, 0, 2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert data.rows.toarray().tolist() == rows
    assert data.labels.tolist() == [0, 0, 1, 1]
