"""Small models in float64, each with a kind of parameter that has its own way to go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SAMPLES = 7


class Attention(nn.Module):
    """Self-attention built of Linear layers, pre-normalised, over ``[batch, 5, 4]``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.project, self.out = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(self.norm(x)).chunk(3, dim=-1)
        weights = (query @ key.transpose(-2, -1) / 2.0).softmax(-1)
        return x + self.out(weights @ value)


class TiedLanguageModel(nn.Module):
    """The embedding's weight is also the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(6, 3), nn.Linear(3, 6, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(tokens))).transpose(1, 2)


class Mixed(nn.Module):
    """Frozen, outside the graph, of no dimension, a buffer, and a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.twice, self.outside = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(2, 2)
        self.frozen.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.register_buffer("shift", torch.tensor([0.5, -0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.twice(torch.tanh(self.twice(self.frozen(x)))) + self.shift


class TwoInputs(nn.Module):
    """Takes a dictionary with two tensors and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2, bias=False)

    def forward(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.left(x["left"]), x["factor"] * self.right(x["pair"][0])


@dataclass
class Case:
    model: nn.Module
    loss_fn: Callable[[Any, Any], Tensor]
    inputs: Any
    targets: Any


def two_losses(output: tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
    return F.mse_loss(output[0], targets) + output[1].square().mean()


def make(name: str) -> Case:
    """A case by name, the same every time."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(SAMPLES, *shape, generator=generator, dtype=torch.float64)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (SAMPLES, *shape), generator=generator)

    cases: dict[str, Callable[[], Case]] = {
        "linear": lambda: Case(nn.Linear(3, 2), F.mse_loss, normal(3), normal(2)),
        "convolution": lambda: Case(
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1),
                nn.GroupNorm(2, 4),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(4, 4, 2, groups=2),
                nn.Flatten(),
                nn.Linear(16, 3),
            ),
            F.cross_entropy,
            normal(2, 6, 6),
            integers(3),
        ),
        "attention": lambda: Case(Attention(), F.mse_loss, normal(5, 4), normal(5, 4)),
        "tied": lambda: Case(TiedLanguageModel(), F.cross_entropy, integers(6, 4), integers(6, 4)),
        "mixed": lambda: Case(Mixed(), F.mse_loss, normal(3), normal(3)),
        "two inputs": lambda: Case(
            TwoInputs(),
            two_losses,
            {"left": normal(3), "pair": (normal(4), normal(1)), "factor": 2.0},
            normal(2),
        ),
    }
    torch.manual_seed(1)
    case = cases[name]()
    case.model.double()
    return case


NAMES = ["linear", "convolution", "attention", "tied", "mixed", "two inputs"]
