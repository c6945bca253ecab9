"""The training loop against AdAdaGrad written out in NumPy, and against itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import CONFIG, train
from torch import nn
from torch.nn import functional as F

from adadagrad_kernels.batching import AdaptiveBatchSampler, PeakMemory
from adadagrad_kernels.training import loop
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.models import MODELS


def numpy_adadagrad(data: Data, config: RunConfig) -> tuple[list[int], list[float], np.ndarray]:
    """Logistic regression by AdAdaGrad with the norm test, in closed form and float64."""
    torch.manual_seed(config.seed)
    layer = torch.nn.Linear(64, 10)
    weights = np.c_[layer.weight.detach().numpy(), layer.bias.detach().numpy()].astype(float)
    accumulator = np.zeros_like(weights)
    batch, batches, losses = config.batch_size, [], []

    def size() -> int:
        left = config.samples - sum(batches)
        return math.ceil(left / 2) if batch < left < 2 * batch else batch

    sampler = AdaptiveBatchSampler(
        len(data.train), size, seed=config.seed, total_samples=config.samples
    )
    for indices in sampler:
        inputs = np.c_[data.train.inputs[indices].flatten(1).numpy(), np.ones(len(indices))]
        labels = data.train.targets[indices].numpy()
        scores = inputs @ weights.T
        likelihood = np.exp(scores - scores.max(1, keepdims=True))
        likelihood /= likelihood.sum(1, keepdims=True)
        losses.append(-np.log(likelihood[np.arange(len(labels)), labels]).mean())
        likelihood[np.arange(len(labels)), labels] -= 1
        gradients = likelihood[:, :, None] * inputs[:, None, :]
        mean = gradients.mean(0)
        accumulator += mean**2
        weights -= config.lr * mean / (np.sqrt(accumulator) + 1e-10)
        batches.append(len(indices))
        if len(indices) > 1 and batch < config.max_batch:
            variance = gradients.var(0, ddof=1).sum()
            assert config.eta is not None
            suggestion = math.ceil(variance / (config.eta**2 * (mean**2).sum()))
            batch = min(config.max_batch, max(batch, suggestion))
    return batches, losses, weights


@pytest.mark.parametrize("micro_batch", [512, 7])
def test_follows_adadagrad_as_written(data: Data, micro_batch: int) -> None:
    config = replace(CONFIG, micro_batch=micro_batch)
    batches, losses, weights = numpy_adadagrad(data, config)
    assert batches[-3] == 150 > batches[5] > batches[0] == 4, "the case must grow to the cap"
    assert 75 <= batches[-1] <= batches[-2] < 150, "what is left over is shared"
    run = Trainer(config, data)
    lines = train(run)
    assert [line["batch/used"] for line in lines] == batches
    assert [line["batch/global"] for line in lines[:-2]] == [*batches[1:-2], 150]
    np.testing.assert_allclose([line["loss"] for line in lines], losses, rtol=2e-5)
    weight, bias = (parameter.detach().numpy() for parameter in run.model.parameters())
    np.testing.assert_allclose(np.c_[weight, bias], weights, atol=2e-5)
    assert lines[-1]["samples_seen"] == sum(batches) == 2000
    assert lines[-1]["steps"] == len(batches)
    assert lines[-1]["batch/average"] == 2000 / len(batches)


def smooth_cnn(shape: Sequence[int], classes: int) -> nn.Module:
    """No ReLU and no maximum, on whose sides two computations may fall."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, classes)
    )


def test_fixed_batch_is_the_plain_loop(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "cnn", smooth_cnn)
    config = replace(
        CONFIG, model="cnn", optimizer="sgd", momentum=0.5, test="none", eta=None, max_batch=32,
        batch_size=32, samples=330, micro_batch=32,
    )  # fmt: skip
    run = Trainer(config, data)
    lines = train(run)
    torch.manual_seed(config.seed)
    model = MODELS["cnn"]((1, 8, 8), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    sizes = iter([32] * 9 + [21, 21])
    sampler = AdaptiveBatchSampler(len(data.train), lambda: next(sizes), total_samples=330)
    for indices, line in zip(sampler, lines, strict=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(data.train.inputs[indices]), data.train.targets[indices])
        loss.backward()
        optimizer.step()
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["statistics_seconds"] == 0
    for found, expected in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "lr", "test", "constants"),
    [
        ("adagrad", 0.05, "coordinate", {"eta": 4.0}),
        ("adagrad-norm", 1.0, "inner-product", {"theta": 0.5}),
        ("adagrad-norm-rows", 0.5, "augmented", {"theta": 1.0, "nu": 1.0}),
        ("sgd", 0.2, "norm", {"eta": 0.7}),
        ("adam", 0.01, "norm", {"eta": 0.7}),
        ("adamw", 0.01, "inner-product", {"theta": 0.5}),
        ("adagrad", 0.05, "metric", {"eta": 0.7}),
        ("adam", 0.01, "metric", {"eta": 0.7}),
        ("adam", 0.01, "sign", {"eta": 1.0}),
        ("sgd", 0.2, "noise-scale", {"scale": 2.0, "smoothing": 0.9}),
        ("sgd", 0.2, "cabs", {"scale": 8.0}),
        (
            "sgd",
            0.2,
            "diversity",
            {"delta": 0.02, "epochs_between": 1, "lr_rule": "sqrt", "samples": 6000},
        ),
        ("delayed-adagrad-norm", 1.0, "adabatchgrad", {"theta": 0.5, "nu": 0.7, "filter_steps": 5}),
    ],
)  # fmt: skip
def test_every_optimizer_and_test_learns(
    data: Data, optimizer: str, lr: float, test: str, constants: dict[str, Any]
) -> None:
    config = replace(
        CONFIG, optimizer=optimizer, lr=lr, test=test, max_batch=64, **{"eta": None, **constants}
    )
    run = Trainer(config, data)
    before = run.summary()["train_loss"]
    lines = train(run)
    assert run.summary()["train_loss"] < before / 1.5
    sizes = [line["batch/used"] for line in lines]
    assert len(set(sizes)) > 2, "the batch must grow"


def test_the_metric_is_the_one_that_the_gradient_met(data: Data) -> None:
    """Before the first step AdaGrad has no sums: its metric is Euclid's, and the tests agree."""
    first = {}
    for test in ("norm", "metric"):
        run = Trainer(replace(CONFIG, test=test, eta=0.3), data)
        first[test] = train(run, steps=1)[0]["batch/global"]
    assert first["metric"] == first["norm"] > CONFIG.batch_size


@pytest.mark.parametrize("test", ["norm", "augmented", "none"])
def test_memory_bound_is_kept(data: Data, test: str) -> None:
    bound = 2**18
    constants = {"norm": {"eta": 0.5}, "augmented": {"theta": 0.5, "nu": 0.5}, "none": {}}[test]
    batch = {"batch_size": 40, "memory": bound, "eta": None, **constants}
    config = replace(CONFIG, model="cnn", test=test, **batch)
    used = []
    for run in (Trainer(config, data), Trainer(replace(config, memory=None), data)):
        inputs, targets = data.train.select(torch.arange(40))
        with run.source:
            run._backward(inputs, targets)
            run.optimizer.zero_grad()
            with PeakMemory() as memory:
                run._backward(inputs, targets)
        used.append(memory.peak_bytes)
    assert bound / 2 < used[0] <= bound < used[1]


@pytest.mark.parametrize(
    ("schedule", "changes", "expected"),
    [
        ("step:100", {}, [4] * 25 + [8] * 13 + [16] * 6 + [32]),
        ("0:10 50:30 200:64", {"batch_size": 10}, [10] * 5 + [30] * 5 + [64] * 2 + [36] * 2),
        ("linear:40", {"max_batch": 24}, [4, 6, 9, 14, 21] + [24] * 3),
        ("cosine:40", {"max_batch": 24}, [4, 5, 7, 11, 20, 24, 24]),
        ("late:160", {"max_batch": 24}, [4] * 40 + [24] * 9),
        ("wsd:400", {"max_batch": 24}, [4] * 30 + [8] * 13 + [16] * 6 + [24] * 2 + [16] * 2),
        ("one-cycle:400,4", {"batch_size": 10, "max_batch": 24}, [10, 10, 9, 9, 9, 8, 8, 7, 7, 7]),
        ("step:100", {"growth_cap": 1.5}, [4] * 25 + [6] + [8] * 12 + [12] + [16] * 6 + [24]),
    ],
)
def test_schedules_set_the_sizes(
    data: Data, schedule: str, changes: dict[str, Any], expected: list[int]
) -> None:
    config = replace(CONFIG, test="none", eta=None, schedule=schedule, samples=400, **changes)
    run = Trainer(config, data)
    sizes = [line["batch/used"] for line in train(run)]
    assert sizes[: len(expected)] == expected
    assert run.statistics_seconds == 0.0


def test_a_plateau_of_the_test_loss_doubles_the_batch(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 0.5, 0.6, 0.5, 0.4, 0.41, 0.42, 0.43, 0.44, 0.3])
    monkeypatch.setattr(loop, "evaluation_metrics", lambda model, data: {"test_loss": next(losses)})
    config = replace(
        CONFIG, test="none", eta=None, schedule="plateau:2", batch_size=10, max_batch=40,
        evaluate_every=100, samples=1000,
    )  # fmt: skip
    by_samples = {line["samples_seen"]: line["batch/used"] for line in train(Trainer(config, data))}
    # Second evaluations without improvement are at 400 and 710; one step later the batch is larger.
    assert by_samples[410] == 10
    assert by_samples[430] == by_samples[730] == 20
    assert by_samples[770] == 40


def test_a_schedule_that_brings_a_learning_rate(data: Data) -> None:
    """Warm-up, stable phase and decay, times the rule of a batch that grows, written out."""
    config = replace(
        CONFIG, optimizer="sgd", lr=0.05, test="none", eta=None, schedule="wsd:400",
        batch_size=10, max_batch=20, samples=400, lr_rule="sqrt",
    )  # fmt: skip
    run = Trainer(config, data)
    rates: list[float] = []
    run.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    lines = train(run)
    seen, expected = 0, []
    for size in (line["batch/used"] for line in lines):
        shape = min(1.0, (seen + 10) / 20, (400 - seen) / 80)
        expected.append(0.05 * shape * (2**0.5 if size == 20 else 1.0))
        seen += size
    assert seen == 400
    assert {line["batch/used"] for line in lines} == {10, 20}
    # The hook is called after the one that applies the rule of the batch.
    assert rates == pytest.approx(expected)
    gains = [line["lr/gain"] for line in lines]
    assert gains[:-1] == pytest.approx([rate / 0.05 for rate in rates[1:]])
    assert gains[-1] == 0.0


@pytest.mark.parametrize(
    ("rule", "gain"), [("linear", 4.0), ("sqrt", 2.0), (0.75, 0.5625), (None, 1.0)]
)
def test_the_learning_rate_follows_the_batch(data: Data, rule: Any, gain: float) -> None:
    """Against gradient descent with the rates written out."""
    config = replace(
        CONFIG, optimizer="sgd", lr=0.05, test="none", eta=None, schedule="0:10 100:40",
        batch_size=10, samples=180, lr_rule=rule,
    )  # fmt: skip
    run = Trainer(config, data)
    torch.manual_seed(config.seed)
    model = torch.nn.Linear(64, 10)
    sizes = iter([10] * 10 + [40] * 2)
    sampler = AdaptiveBatchSampler(len(data.train), lambda: next(sizes), seed=0, total_samples=180)
    for indices in sampler:
        inputs, targets = data.train.select(torch.tensor(indices))
        loss = F.cross_entropy(model(inputs.flatten(1)), targets)
        gradients = torch.autograd.grad(loss, tuple(model.parameters()))
        rate = 0.05 * (gain if len(indices) == 40 else 1.0)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(gradient, alpha=rate)
    lines = train(run)
    for found, expected in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert run.optimizer.param_groups[0]["lr"] == 0.05
    assert [lines[0]["lr/gain"], lines[-1]["lr/gain"]] == pytest.approx([1.0, gain])


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_sizes_of_the_inner_product_tests_have_error_bars(
    data: Data, micro_batch: int | None
) -> None:
    """And training is the same with them as without, to rounding."""
    config = replace(
        CONFIG, test="augmented", theta=0.4, nu=0.8, eta=None, samples=600, micro_batch=micro_batch
    )
    run = Trainer(replace(config, error_bars=0.9), data)
    lines = [line for line in train(run) if "batch/suggested_low" in line]
    assert len(lines) > 5
    for line in lines:
        low, high = line["batch/suggested_low"], line["batch/suggested_high"]
        assert low <= line["batch/suggested"] <= high
    plain = Trainer(config, data)
    train(plain)
    for ours, theirs in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_controller_options_reach_the_controller(data: Data) -> None:
    options = {"growth_cap": 1.5, "hysteresis": 1.25, "cooldown": 7, "test_interval": 2}
    run = Trainer(replace(CONFIG, smoothing=0.5, **options), data)
    assert {name: getattr(run.controller, name) for name in options} == options
    assert run.controller.smoothing.beta == 0.5


def test_evaluations_and_lines_are_where_they_were_asked_for(data: Data) -> None:
    config = replace(
        CONFIG, test="none", eta=None, batch_size=30, max_batch=30, evaluate_every=500,
        log_every=100, samples=1010,
    )  # fmt: skip
    lines = train(Trainer(config, data))
    assert [line["samples_seen"] for line in lines] == [
        120, 210, 300, 420, 510, 600, 720, 810, 900, 985, 1010,
    ]  # fmt: skip
    assert [line["samples_seen"] for line in lines if "test_accuracy" in line] == [510, 1010]


def test_summary_counts_right(data: Data) -> None:
    run = Trainer(replace(CONFIG, samples=400), data)
    train(run)
    summary = run.summary()
    scores = run.model(data.test.inputs)
    accuracy = (scores.argmax(1) == data.test.targets).double().mean().item()
    assert summary["test_accuracy"] == pytest.approx(accuracy, abs=1e-12)
    loss = F.cross_entropy(run.model(data.train.inputs), data.train.targets).item()
    assert summary["train_loss"] == pytest.approx(loss, rel=1e-5)
