"""The harness of the papers' experiments, against trainings that are written out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn import functional as F

from adadagrad_kernels import (
    AdaptiveBatchSampler,
    BatchController,
    NormTest,
    PerSampleGradients,
)
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.training.catalogue import OPTIMIZERS
from adadagrad_kernels.training.data import Data, Samples
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.objectives import Objective
from benchmarks.reproduce import generalization, harness, sparse_data
from benchmarks.reproduce.plan import Plan
from benchmarks.reproduce.results import Options
from benchmarks.reproduce.targets import Targets, at
from benchmarks.reproduce.tasks import Task, sequence_loss

QUIET = Progress("", 1, quiet=True)
ADAPTIVE = {"growth": {"rule": "norm", "eta": 0.5}, "max_batch": 24}


def regression(seed: int = 0) -> Task:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(40, 3, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    targets += torch.randn(40, 1, generator=generator)

    samples = Samples(inputs, targets)
    data = Data(samples, samples, checksum=0, objective=Objective(F.mse_loss))
    return Task("regression", data, partial(nn.Linear, 3, 1))


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


def train(plan: Plan, task: Task | None = None, seed: int = 3) -> Trainer:
    trainer, result = harness.train(task or regression(), plan, seed, QUIET)
    trainer.result = result
    return trainer


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
        statistics = source.backward(*task.data.train.select(rows))
        controller.update(statistics)
        sgd.step()
        left -= size
    assert controller.batch_size == found.controller.batch_size == 24
    assert controller.steps == found.result["steps"]
    torch.testing.assert_close(list(model.parameters()), list(found.model.parameters()))


def whole_order(trainer: Trainer):
    """All indices of the budget in the sampler's order, which no batch size changes."""

    return AdaptiveBatchSampler(40, 1, seed=trainer.sampler.seed, total_samples=200)


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
    doubling = plan(growth={"rule": "doubling", "every": 50}, max_batch=16, evaluate_every=1)
    drawn = [point["samples"] for point in train(doubling).result["curve"]]
    # 52 samples in fours, 48 in eights, 96 in sixteens, and the rest in two halves.
    assert np.diff(drawn).tolist() == [4] * 13 + [8] * 6 + [16] * 5 + [10, 10]


def test_the_rate_of_a_cosine() -> None:
    cosine = plan(shape="cosine", warmup=0.1, floor=0.2)
    rates = [cosine.rate(samples) for samples in (0, 10, 20, 110, 200)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2])


def test_the_steps_of_a_run_have_the_rates_of_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step behind 40 samples has the rate at 40 samples: a warm-up begins with none."""
    cosine = plan(shape="cosine", warmup=0.1, floor=0.2, batch_size=20)
    found = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            found.append(self.param_groups[0]["lr"])
            return super().step(closure)

    monkeypatch.setitem(OPTIMIZERS, "sgd", replace(OPTIMIZERS["sgd"], build=Noting))
    train(cosine)
    assert found == pytest.approx([0.05 * cosine.rate(samples) for samples in range(0, 200, 20)])


@pytest.mark.parametrize(
    ("growth", "test", "constants"),
    [
        ({}, "none", {}),
        ({"rule": "norm", "eta": 0.5}, "norm", {"eta": 0.5}),
        ({"rule": "metric", "metric": "sign", "eta": 0.5}, "sign", {"eta": 0.5}),
        ({"rule": "metric", "metric": "adam", "eta": 0.5}, "metric", {"eta": 0.5}),
        (
            {"rule": "diversity", "delta": 0.1, "epochs_between": 2},
            "diversity",
            {"delta": 0.1, "epochs_between": 2},
        ),
    ],
)
def test_a_plan_names_a_test_of_the_core(growth: dict, test: str, constants: dict) -> None:
    optimizer = {"kind": "adam", "lr": 0.01, "betas": [0.9, 0.95]}
    config = plan(growth=growth, optimizer=optimizer, max_batch=24).config("task", 1)
    assert (config.test, config.schedule) == (test, None)
    assert config.test_constants() == constants
    assert config.settings() == {"beta2": 0.95, "weight_decay": 0.0}
    doubling = plan(growth={"rule": "doubling", "every": 50}).config("task", 1)
    assert (doubling.test, doubling.schedule) == ("none", "step:50")
    late = plan(growth={"rule": "late", "after": 70}).config("task", 1)
    assert (late.test, late.schedule) == ("none", "late:70")


def test_the_loss_of_sequences_is_the_mean_of_their_characters() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(5, 7, 3, generator=generator)
    characters = torch.randint(3, (5, 7), generator=generator)
    chosen = scores.log_softmax(2).gather(2, characters.unsqueeze(2)).squeeze(2)
    each = -chosen.mean(1)
    for reduction, expected in (("none", each), ("sum", each.sum()), ("mean", each.mean())):
        found = sequence_loss(scores, characters, reduction=reduction)
        torch.testing.assert_close(found, expected)


def test_the_noise_is_that_of_the_model_as_it_is() -> None:
    """Measured along the way beside a model whose layers are being measured."""
    size = generalization.SIZES["smoke"]
    task = generalization._task(size, Options("smoke"))
    growth = {"rule": "norm", "eta": 1.0}
    short = plan(samples=40, evaluate_every=40, growth=growth, max_batch=8, targets={})
    trainer = train(short, task)
    found = trainer.result["final"]
    samples = task.data.train.first(generalization.NOISE_SAMPLES)
    source = PerSampleGradients(trainer.model, F.cross_entropy)
    expected = source.backward(samples.inputs, samples.targets)
    assert found["noise"] == pytest.approx(expected.noise_scale, rel=1e-3)


@pytest.mark.parametrize(
    "growth", [{"rule": "norm", "eta": 0.5}, {"rule": "doubling", "every": 40}]
)
def test_a_rate_follows_a_batch_that_grows(growth: dict) -> None:
    """The last step's rate is the first one's, times the growth."""
    trainer = train(plan(on_growth=0.5, growth=growth, max_batch=24))
    assert trainer.result["batch"] == 24
    assert trainer.lr_gain.gain == pytest.approx(6**0.5)


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
        task = sparse_data.regression("rows", data, data)
        trainer = train(plan(samples=90, targets={}, evaluate_every=90), task)
        found.append((list(trainer.model.parameters()), trainer.result["final"]["train_loss"]))
    torch.testing.assert_close(found[0], found[1])


def test_labels_of_many_classes_become_two(tmp_path: Path) -> None:

    path = tmp_path / "rows"
    path.write_text("3 1:0.5 4:2\n1 2:1\n7 1:1\n9 3:1\n")
    data = sparse_data.read(path, 4)
    rows = [[0.5, 0, 0, 2], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert data.rows.toarray().tolist() == rows
    assert data.labels.tolist() == [0, 0, 1, 1]
