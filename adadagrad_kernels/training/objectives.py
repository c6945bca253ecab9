"""What a model's outputs are held against: the loss that is minimized, and what counts as right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F


class Loss(Protocol):
    """A loss like those of ``torch.nn.functional``."""

    def __call__(self, outputs: Tensor, targets: Tensor, /, *, reduction: str = "mean") -> Tensor:
        """The losses, ``[samples]`` for ``"none"``, or their ``"sum"`` or ``"mean"``."""


@dataclass(frozen=True)
class Objective:
    """What is minimized on a data set, and by what a model is judged beside it.

    Attributes:
        loss: of outputs and targets, one number for each sample.
        correct: of outputs and targets, whether each sample is right, ``[samples]``; None where
            there is no accuracy.
    """

    loss: Loss
    correct: Callable[[Tensor, Tensor], Tensor] | None = None


#: Targets are classes, outputs their scores, ``[samples, classes]``.
CLASSIFICATION = Objective(F.cross_entropy, lambda scores, targets: scores.argmax(1) == targets)
