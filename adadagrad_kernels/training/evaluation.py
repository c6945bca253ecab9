"""Loss and accuracy of a model on a data set."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from adadagrad_kernels.training.data import Data, Samples

# Larger ones leave the cache: the CNN took 1.5 times as long with 1,000.
BATCH = 250

# The training loss along the way is that of the first samples; only the last one is of all.
TRAIN_SAMPLES = 10_000


def evaluate(model: nn.Module, samples: Samples) -> tuple[float, float]:
    """Returns the mean cross-entropy and the share of samples classified correctly.

    The model is in evaluation mode meanwhile.
    """
    loss, correct = 0.0, 0
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            for inputs, targets in zip(
                torch.split(samples.inputs, BATCH), torch.split(samples.targets, BATCH), strict=True
            ):
                scores = model(inputs)
                loss += F.cross_entropy(scores, targets, reduction="sum").item()
                correct += int((scores.argmax(1) == targets).sum())
    finally:
        for module, training in modes:
            module.training = training
    return loss / len(samples), correct / len(samples)


def evaluation_metrics(model: nn.Module, data: Data, *, whole: bool = False) -> dict[str, float]:
    """Evaluates on both sets: on the whole training set, or on its first `TRAIN_SAMPLES`."""
    train = data.train if whole else data.train.first(TRAIN_SAMPLES)
    train_loss, _ = evaluate(model, train)
    test_loss, test_accuracy = evaluate(model, data.test)
    return {"train_loss": train_loss, "test_loss": test_loss, "test_accuracy": test_accuracy}


def evaluated_samples(training: int, test: int) -> int:
    """How many samples one evaluation along the way takes, of sets of these sizes."""
    return min(training, TRAIN_SAMPLES) + test
