"""Values that all samples share: positions, tables, learnt tokens."""

from __future__ import annotations

import torch
from torch import nn

from support.zoo.entry import D, Entry, T, V, made, positions, rows, sequences, text, words

SHARED_VALUES = {
    "positions": Entry(text(lambda m, x: m.head(m.tok(x) + m.pos(positions(x)))), words),
    "positions averaged": Entry(
        text(lambda m, x: m.head(m.tok(x) + m.pos(positions(x)).mean(0))), words
    ),
    "positions sliced": Entry(
        text(lambda m, x: m.head(m.tok(x)[:, 1:] + m.pos(positions(x))[:-1])), words
    ),
    "positions flipped and summed": Entry(
        text(lambda m, x: m.head(m.tok(x) + m.pos(positions(x)).flip(0).cumsum(0))), words
    ),
    "positions squeezed": Entry(
        text(lambda m, x: m.head(m.tok(x) + m.pos(positions(x)[None]).squeeze(0))), words
    ),
    "positions into a product": Entry(
        text(lambda m, x: m.head((m.tok(x) @ m.pos(positions(x)).t()).softmax(-1) @ m.tok(x))),
        words,
    ),
    "positions stacked with zeros": Entry(
        text(
            lambda m, x: m.head(
                m.tok(x) + torch.stack([m.pos(positions(x)), torch.zeros(T, D)]).sum(0)
            )
        ),
        words,
    ),
    "a row of a parameter": Entry(
        made(
            lambda m, x: m.o((m.e(x) * m.f(m.z).squeeze(0)).tanh()),
            z=lambda: nn.Parameter(torch.randn(1, D)),
            f=lambda: nn.Linear(D, 3), e=lambda: nn.Linear(D, 3), o=lambda: nn.Linear(3, 2),
        ),
        sequences,
    ),
    "a row of a buffer": Entry(
        made(
            lambda m, x: m.o((m.e(x) + m.f(m.z)).tanh()),
            z=lambda: torch.randn(1, D), f=lambda: nn.Linear(D, 3), e=lambda: nn.Linear(D, 3),
            o=lambda: nn.Linear(3, 2),
        ),
        rows,
    ),
    "learnt queries": Entry(
        made(
            lambda m, x: m.o((m.q(m.z) @ m.k(x).mT).softmax(-1) @ x),
            z=lambda: nn.Parameter(torch.randn(3, D)), q=lambda: nn.Linear(D, D),
            k=lambda: nn.Linear(D, D), o=lambda: nn.Linear(D, 2),
        ),
        sequences,
    ),
    "a learnt token before the others": Entry(
        made(
            lambda m, x: m.o(torch.cat([m.cls.expand(len(x), 1, D), m.e(x)], 1)),
            cls=lambda: nn.Parameter(torch.randn(1, 1, D)), e=lambda: nn.Linear(D, D),
            o=lambda: nn.Linear(D, 2),
        ),
        sequences,
    ),
    "relative positions": Entry(
        text(
            lambda m, x: m.head(
                m.pos((positions(x)[:, None] - positions(x)).abs()).sum(-1).softmax(-1) @ m.tok(x)
            )
        ),
        words,
    ),
    "rows and columns": Entry(
        made(
            lambda m, x: m.o(
                m.e(x) + (m.r(torch.arange(T))[:, None] + m.c(torch.arange(T))).flatten(0, 1)
            ),
            e=lambda: nn.Linear(3, D), r=lambda: nn.Embedding(T, D), c=lambda: nn.Embedding(T, D),
            o=lambda: nn.Linear(D, 2),
        ),
        lambda b: torch.randn(b, T * T, 3),
    ),
    "rows and columns, repeated": Entry(
        made(
            lambda m, x: m.o(
                m.e(x)
                + torch.cat(
                    [m.c(torch.arange(T))[None].repeat(T, 1, 1),
                     m.r(torch.arange(T))[:, None].repeat(1, T, 1)], -1,
                ).flatten(0, 1)[None]
            ),
            e=lambda: nn.Linear(3, 2 * D), r=lambda: nn.Embedding(T, D),
            c=lambda: nn.Embedding(T, D), o=lambda: nn.Linear(2 * D, 2),
        ),
        lambda b: torch.randn(b, T * T, 3),
    ),
    "positions and a prior": Entry(
        made(
            lambda m, x: m.o((m.t(x) + (m.p(torch.arange(T)) + m.f(m.z))).tanh()),
            t=lambda: nn.Embedding(V, D), p=lambda: nn.Embedding(T, D),
            z=lambda: torch.randn(1, D), f=lambda: nn.Linear(D, D), o=lambda: nn.Linear(D, 2),
        ),
        words,
    ),
    "a prior through layers": Entry(
        made(
            lambda m, x: m.o(m.e(x) * m.norm(m.f(m.z)).sigmoid()),
            z=lambda: torch.randn(1, D), f=lambda: nn.Linear(D, 3), norm=lambda: nn.LayerNorm(3),
            e=lambda: nn.Linear(D, 3), o=lambda: nn.Linear(3, 2),
        ),
        rows,
    ),
}  # fmt: skip
