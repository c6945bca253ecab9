"""Modules and parameters that are used in several places."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.utils import parametrizations

from support.zoo.entry import D, Entry, V, images, made, rows, sequences, words


def shares(build: Callable[[], nn.Module], one: str, other: str) -> Callable[[], nn.Module]:
    """A model in which a parameter takes the place of another, by their names."""

    def tie() -> nn.Module:
        model = build()
        path, _, name = other.rpartition(".")
        setattr(model.get_submodule(path), name, model.get_parameter(one))
        return model

    return tie


TIES = {
    "a cell and a linear layer": Entry(
        shares(
            made(lambda m, x: m.c(x) + m.l(x)[:, :D], c=lambda: nn.GRUCell(D, D),
                 l=lambda: nn.Linear(D, 3 * D)),
            "c.weight_ih", "l.weight",
        ),
        rows, autocast=False,
    ),
    "two recurrent layers": Entry(
        shares(
            made(lambda m, x: m.a(x)[0] + m.b(x)[0], a=lambda: nn.LSTM(D, 3, batch_first=True),
                 b=lambda: nn.LSTM(D, 3, batch_first=True)),
            "a.weight_ih_l0", "b.weight_ih_l0",
        ),
        sequences,
    ),
    "a recurrent layer used twice": Entry(
        made(lambda m, x: m.a(m.a(x)[0])[0], a=lambda: nn.LSTM(D, D, batch_first=True)), sequences
    ),
    "attention and a linear layer": Entry(
        shares(
            made(lambda m, x: m.l(m.a(x, x, x)[0]),
                 a=lambda: nn.MultiheadAttention(D, 2, batch_first=True),
                 l=lambda: nn.Linear(D, D)),
            "a.out_proj.weight", "l.weight",
        ),
        sequences,
    ),
    "two convolutions": Entry(
        shares(
            lambda: nn.Sequential(nn.Conv2d(2, 2, 3), nn.Tanh(), nn.Conv2d(2, 2, 3)),
            "0.weight", "2.weight",
        ),
        images,
    ),
    "a normalisation and a parameter": Entry(
        shares(
            made(lambda m, x: m.n(x) * m.p, n=lambda: nn.LayerNorm(D),
                 p=lambda: nn.Parameter(torch.ones(D))),
            "p", "n.weight",
        ),
        sequences,
    ),
    "the bias of a parametrized layer": Entry(
        shares(
            lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(D, D)), nn.Tanh(),
                                  nn.Linear(D, D)),
            "0.bias", "2.bias",
        ),
        rows, autocast=False,
    ),
    "a bag and a linear layer": Entry(
        shares(
            made(lambda m, x: m.l(m.b(x).tanh()), b=lambda: nn.EmbeddingBag(V, D, mode="mean"),
                 l=lambda: nn.Linear(D, V, bias=False)),
            "b.weight", "l.weight",
        ),
        words, autocast=False,
    ),
}  # fmt: skip
