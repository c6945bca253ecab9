"""What a training step is measured of: a model and a batch; an MLP, a CNN and a small GPT."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.train_steps.kinks import without_kinks


class Training(NamedTuple):
    """A model of its own and the batch it is trained on; the same numbers every time."""

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    autocast: bool = False

    def zero_grad(self) -> None:
        self.model.zero_grad(set_to_none=True)

    def loss(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            return mean_loss(self.model(self.inputs), self.targets)


@dataclass(frozen=True)
class Case:
    """A model and a size of its batch.

    Attributes:
        name: of the model and its batch.
        samples: size of the batch.
        model: makes it.
        batch: makes inputs and targets of so many samples.
        chunk: samples whose gradients peers may hold at a time, where they can hold some only;
            0 leaves peers out.
        contributions: whether some parameters are measured by all samples' contributions.
        long: whether a step takes the better part of a second.
        autocast: whether forward pass and loss run under autocast to bfloat16.
        twin: whether the model is without kinks, for comparisons.
        needs: what this machine lacks to build the model, or None.
    """

    name: str
    samples: int
    model: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Tensor, Tensor]]
    chunk: int = 64
    contributions: bool = False
    long: bool = False
    autocast: bool = False
    twin: bool = False
    needs: Callable[[], str | None] = lambda: None

    @property
    def title(self) -> str:
        """As the tables name it."""
        return self.name + ", bf16 autocast" * self.autocast

    def missing(self) -> str | None:
        """Why the case is left out here."""
        return self.needs() or (no_bfloat16() if self.autocast else None)

    def build(self) -> Training:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, batch = self.model(), self.batch(self.samples)
        return Training(without_kinks(model) if self.twin else model, *batch, self.autocast)


def no_bfloat16() -> str | None:
    """Why a step under autocast would take minutes here."""
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return "oneDNN has no bfloat16 for this processor, and torch's own takes minutes"


def mean_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy in float32, its mean over samples and, where there are any, their tokens."""
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def mlp(samples: int = 512, width: int = 2048) -> Case:
    """784-2048-2048-10, 5.8 million parameters: one position a sample."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(784, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 10),
        )

    def batch(size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 784), torch.randint(10, (size,))

    return Case(f"MLP, batch {samples}", samples, model, batch, chunk=8)


def cnn(samples: int) -> Case:
    """A small CNN for MNIST, 28,938 parameters: many positions a sample."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1568, 10),
        )

    def batch(size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 1, 28, 28), torch.randint(10, (size,))

    return Case(f"CNN, batch {samples}", samples, model, batch, long=samples > 2000)


def gpt(samples: int = 32, *, layers: int = 4, width: int = 256, tokens: int = 128) -> Case:
    """A decoder of 3.7 million parameters: matrix products over the tokens of every sample."""
    vocabulary = 1024

    def batch(size: int) -> tuple[Tensor, Tensor]:
        text = torch.randint(vocabulary, (size, tokens + 1))
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    return Case(
        f"GPT, batch {samples} x {tokens}",
        samples,
        lambda: Decoder(vocabulary, tokens, layers, width),
        batch,
        chunk=8,
        long=True,
    )


class Decoder(nn.Module):
    """Learned positions, blocks, an untied head without bias."""

    def __init__(self, vocabulary: int, tokens: int, layers: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(tokens, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        # A row of positions for every sample: hooks of other libraries know no shared ones.
        positions = torch.arange(text.shape[1]).repeat(text.shape[0], 1)
        return self.head(self.norm(self.blocks(self.tokens(text) + self.positions(positions))))


class Block(nn.Module):
    """Attention and a feed-forward network, each behind its norm and beside the residual stream."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.mlp_norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, stream: Tensor) -> Tensor:
        stream = stream + self._attend(self.attention_norm(stream))
        return stream + self.down(F.gelu(self.up(self.mlp_norm(stream))))

    def _attend(self, tokens: Tensor) -> Tensor:
        """Products and a softmax, which every method, vmap among them, runs as the same kernels."""
        query, key, value = (
            layer(tokens).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for layer in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        length = tokens.shape[-2]
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float("-inf")).softmax(-1)
        return self.output((weights @ value).transpose(-3, -2).flatten(-2))
