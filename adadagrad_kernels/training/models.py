"""The paper's two MNIST models: one for inputs of any shape, one for images of any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn


def logistic(shape: Sequence[int], classes: int) -> nn.Module:
    """Multinomial logistic regression: 7,850 parameters on 28 x 28 images."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))


def cnn(shape: Sequence[int], classes: int) -> nn.Module:
    """The AdAdaGrad paper's "3-layer CNN": 28,938 parameters on 28 x 28 images.

    Two 5 x 5 convolutions (16 and 32 channels), each with ReLU and 2 x 2 max-pooling, and one
    linear layer (arXiv 2402.11215).
    """
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * (height // 4) * (width // 4), classes),
    )


MODELS: dict[str, Callable[[Sequence[int], int], nn.Module]] = {"logistic": logistic, "cnn": cnn}
