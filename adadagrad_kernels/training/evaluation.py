"""Loss and accuracy of a model on a data set."""

from __future__ import annotations

import torch
from torch import nn

from adadagrad_kernels.training.data import TRAIN_SAMPLES, Data, Samples
from adadagrad_kernels.training.objectives import CLASSIFICATION, Objective

# Larger ones leave the cache: the CNN took 1.5 times as long with 1,000.
BATCH = 250


def evaluate(
    model: nn.Module, samples: Samples, objective: Objective = CLASSIFICATION
) -> dict[str, float]:
    """Returns the mean ``loss``, and as ``accuracy`` the share of the samples that are right.

    There is no accuracy where the objective says nothing of it. The model is in evaluation mode
    meanwhile.
    """
    loss, correct = 0.0, 0
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for inputs, targets in samples.parts(BATCH):
                outputs = model(inputs)
                loss += objective.loss(outputs, targets, reduction="sum").item()
                if objective.correct is not None:
                    correct += int(objective.correct(outputs, targets).sum())
    finally:
        for module, training in modes:
            module.training = training
    found = {"loss": loss / len(samples)}
    return found if objective.correct is None else found | {"accuracy": correct / len(samples)}


def evaluation_metrics(model: nn.Module, data: Data, *, whole: bool = False) -> dict[str, float]:
    """Evaluates on both sets: on the whole training set, or on its first `train_samples`."""
    train = data.train if whole else data.train.first(data.train_samples)
    found = {"train_loss": evaluate(model, train, data.objective)["loss"]}
    tested = evaluate(model, data.test, data.objective)
    return found | {f"test_{name}": value for name, value in tested.items()}


def evaluated_samples(training: int, test: int) -> int:
    """How many samples one evaluation along the way takes, of sets of these sizes."""
    return min(training, TRAIN_SAMPLES) + test
