"""Data whose targets are no classes: their loss, their evaluation, and a model of one's own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels import AdaptiveBatchSampler, BatchController, PerSampleGradients
from adadagrad_kernels.cli.progress import Progress
from adadagrad_kernels.criteria import InnerProductTest
from adadagrad_kernels.training.config import RunConfig
from adadagrad_kernels.training.data import Data, Samples
from adadagrad_kernels.training.evaluation import evaluate, evaluation_metrics
from adadagrad_kernels.training.loop import Trainer
from adadagrad_kernels.training.objectives import Objective


def squares(outputs: Tensor, targets: Tensor, /, *, reduction: str = "mean") -> Tensor:
    return F.mse_loss(outputs.squeeze(1), targets.squeeze(1), reduction=reduction)


SQUARES = Objective(squares)
CONFIG = RunConfig(
    data="lines", model="lines", optimizer="sgd", lr=0.02, test="inner-product", theta=0.5,
    batch_size=4, max_batch=30, samples=300, evaluate_every=100, log_every=100, micro_batch=5,
)  # fmt: skip


@pytest.fixture
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(60, 3, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]])
    targets += torch.randn(60, 1, generator=generator)
    train, test = (Samples(inputs[part], targets[part]) for part in (slice(40), slice(40, 60)))
    return Data(train, test, checksum=0, objective=SQUARES, train_samples=10)


def trained(config: RunConfig, data: Data) -> tuple[Trainer, list[dict[str, Any]], list[float]]:
    trainer, lines = Trainer(config, data, partial(nn.Linear, 3, 1)), []
    losses = list(trainer.run(lines.append, Progress("", 1, quiet=True)))
    return trainer, lines, losses


def test_least_squares_follow_the_steps_that_are_written_out(data: Data) -> None:
    """Inner products of several micro-batches take each sample's loss, the steps their mean."""
    trainer, _, losses = trained(CONFIG, data)
    torch.manual_seed(CONFIG.seed)
    model = nn.Linear(3, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=CONFIG.lr)
    controller = BatchController(InnerProductTest(0.5), batch_size=4, max_batch_size=30)
    source = PerSampleGradients(model, F.mse_loss, inner_products=True)
    order = iter([i for (i,) in AdaptiveBatchSampler(40, 1, seed=0, total_samples=300)])
    expected, left = [], 300
    while left:
        size = controller.batch_size
        size = (left + 1) // 2 if size < left < 2 * size else min(size, left)
        inputs, targets = data.train.select(torch.tensor([next(order) for _ in range(size)]))
        expected.append(F.mse_loss(model(inputs), targets).item())
        sgd.zero_grad()
        statistics = source.backward(inputs, targets)
        sgd.step()
        controller.update(statistics)
        left -= size
    assert controller.batch_size > 8, "the batch must outgrow a micro-batch"
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(list(trainer.model.parameters()), list(model.parameters()))


def test_an_evaluation_is_of_the_objective_and_of_the_samples_that_the_data_say(
    data: Data,
) -> None:
    trainer, lines, _ = trained(CONFIG, data)
    found = evaluation_metrics(trainer.model, data)
    with torch.no_grad():
        expected = {
            "train_loss": F.mse_loss(
                trainer.model(data.train.inputs[:10]), data.train.targets[:10]
            ),
            "test_loss": F.mse_loss(trainer.model(data.test.inputs), data.test.targets),
        }
    assert found == pytest.approx({name: value.item() for name, value in expected.items()})
    assert trainer.evaluate() == found
    evaluated = [line for line in lines if "test_loss" in line]
    assert len(evaluated) == 3
    assert not any("test_accuracy" in line for line in lines)


def test_the_accuracy_is_the_share_that_the_objective_calls_right(data: Data) -> None:
    near = Objective(squares, lambda found, wanted: (found - wanted).abs().squeeze(1) < 1)
    model = nn.Linear(3, 1)
    with torch.no_grad():
        errors = (model(data.test.inputs) - data.test.targets).abs()
    share = (errors < 1).double().mean().item()
    assert 0 < share < 1
    assert evaluate(model, data.test, near)["accuracy"] == share
    found = evaluation_metrics(model, replace(data, objective=near))
    assert found["test_accuracy"] == share
