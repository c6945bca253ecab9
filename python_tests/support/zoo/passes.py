"""Forward passes with more in them than layers: state, loops, checkpoints, parts under no_grad."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from support.zoo.entry import D, Entry, T, made, positions, rows, sequences, text, words


class Counts(nn.Module):
    """State of every kind that no buffer holds, which its forward pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(D))
        self.calls, self.seen, self.last = 0, [], {}
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen.append(len(x))
        self.last["mean"] = float(x.detach().mean()) if self.calls else 0.0
        self.total += 1
        return x * self.gain


class Writes(nn.Module):
    """Changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        x += self.shift
        return x


class Outputs(nn.Module):
    """Several outputs, of which one is made of another."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.e, self.o = nn.Parameter(torch.ones(D)), nn.Linear(D, D), nn.Linear(D, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = (self.e(x) * self.g).tanh()
        return h, self.o(h), h


class Cells(nn.Module):
    """A cell in a loop."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.o = kind(D, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.o(state[0] if isinstance(state, tuple) else state)


class Recurrent(nn.Module):
    """A recurrent layer of a kind, with its samples in either dimension."""

    def __init__(self, kind: type[nn.Module], **settings: Any) -> None:
        super().__init__()
        self.r, self.o = kind(D, 3, **settings), nn.LazyLinear(2)
        self.o = nn.Linear(6 if settings.get("bidirectional") else 3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.r.batch_first
        outputs, last = self.r(x if first else x.transpose(0, 1))
        last = last[0] if isinstance(last, tuple) else last
        return self.o(outputs if first else outputs.transpose(0, 1)), last.transpose(0, 1)


def deep(model: Any, x: Tensor) -> Tensor:
    """A depth that a generator of the model's own decides, the same for all samples."""
    model.chance.seed(3)
    for layer in model.layers:
        if model.chance.random() < 0.5:
            x = x + layer(x).tanh()
    return x


PASSES = {
    "counters": Entry(lambda: nn.Sequential(nn.Linear(D, D), Counts(), nn.Linear(D, 2)), rows),
    "several outputs": Entry(Outputs, rows),
    "several outputs, one read": Entry(
        Outputs, rows, lambda model, inputs: model(inputs)[1]
    ),
    "LSTM cells": Entry(lambda: Cells(nn.LSTMCell), sequences, autocast=False),
    "GRU cells": Entry(lambda: Cells(nn.GRUCell), sequences, autocast=False),
    "RNN cells": Entry(lambda: Cells(nn.RNNCell), sequences, autocast=False),
    "LSTM": Entry(lambda: Recurrent(nn.LSTM, batch_first=True), sequences),
    "LSTM, time first": Entry(lambda: Recurrent(nn.LSTM, num_layers=2), sequences),
    "GRU, both ways": Entry(
        lambda: Recurrent(nn.GRU, batch_first=True, bidirectional=True), sequences
    ),
    "RNN": Entry(lambda: Recurrent(nn.RNN, bias=False), sequences),
    "a depth by chance": Entry(
        made(
            deep,
            layers=lambda: nn.ModuleList(nn.Linear(D, D) for _ in range(4)),
            chance=random.Random,
        ),
        rows,
    ),
    "in place": Entry(
        lambda: nn.Sequential(nn.Linear(D, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)), rows
    ),
    "views and splits": Entry(
        made(
            lambda m, x: m.o(torch.cat(m.e(x).view(-1, 2, 3).unbind(1)[::-1], 1)),
            e=lambda: nn.Linear(D, 6), o=lambda: nn.Linear(6, 2),
        ),
        rows,
    ),
    "positions folded into the batch inside": Entry(
        made(
            lambda m, x: (m.e(x).flatten(0, 1) * m.g).view(len(x), T, -1),
            e=lambda: nn.Linear(D, 3), g=lambda: nn.Parameter(torch.ones(3)),
        ),
        sequences,
    ),
    "positions in the batch of layers": Entry(
        made(
            lambda m, x: m.o(m.n(m.e(x.flatten(0, 1)).tanh())).view(len(x), T, -1),
            e=lambda: nn.Linear(D, 3), n=lambda: nn.LayerNorm(3), o=lambda: nn.Linear(3, 2),
        ),
        sequences,
    ),
    "samples second in layers": Entry(
        made(
            lambda m, x: m.o(m.n(m.e(x.transpose(0, 1)).tanh())).transpose(0, 1),
            e=lambda: nn.Linear(D, 3), n=lambda: nn.LayerNorm(3), o=lambda: nn.Linear(3, 2),
        ),
        sequences,
    ),
    "an encoder with its samples second": Entry(
        made(
            lambda m, x: m.e(x.transpose(0, 1)).transpose(0, 1),
            e=lambda: nn.TransformerEncoder(
                nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0), 1, enable_nested_tensor=False
            ),
        ),
        sequences,
    ),
    "writes to its input": Entry(
        lambda: nn.Sequential(nn.Linear(D, D), Writes(), nn.Linear(D, 2)), rows
    ),
    "a layer used twice": Entry(
        made(lambda m, x: m.o(m.o(x).tanh()), o=lambda: nn.Linear(D, D)), rows
    ),
    "a layer for tokens and positions": Entry(
        text(lambda m, x: m.head(m.mix(m.tok(x)) + m.mix(m.pos(positions(x)))),
             mix=lambda: nn.Linear(D, D)),
        words,
    ),
    "checkpointed": Entry(
        made(
            lambda m, x: m.o(checkpoint(lambda h: m.e(h).tanh(), x, use_reentrant=False)),
            e=lambda: nn.Linear(D, 5), o=lambda: nn.Linear(5, 2),
        ),
        rows,
    ),
    "gradients of the input too": Entry(
        made(lambda m, x: m.o(m.e(x).sin()), e=lambda: nn.Linear(D, 5), o=lambda: nn.Linear(5, 2)),
        lambda b: rows(b).requires_grad_(),
        lambda model, inputs: model(inputs * 1.5),
    ),
    "a part under no_grad": Entry(
        made(
            lambda m, x: m.o(x) * _without_grad(m.e, x),
            e=lambda: nn.Linear(D, 2).requires_grad_(False), o=lambda: nn.Linear(D, 2),
        ),
        rows,
    ),
    "detached in between": Entry(
        made(lambda m, x: (m.e(x), m.o(m.e(x).detach())), e=lambda: nn.Linear(D, 3),
             o=lambda: nn.Linear(3, 2)),
        rows,
    ),
}  # fmt: skip


def _without_grad(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)
