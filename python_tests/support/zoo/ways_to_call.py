"""Ways to hand a batch to a model."""

from __future__ import annotations

import torch
from torch import nn

from support.zoo.entry import (
    Batch,
    D,
    Entry,
    Slotted,
    T,
    attend,
    causal,
    made,
    positions,
    rows,
    text,
    words,
)

WAYS_TO_CALL = {
    "an object": Entry(
        text(lambda m, batch: m.head((m.tok(batch.ids) + m.pos(positions(batch.ids))).mean(1))),
        lambda b: Batch(words(b)),
    ),
    "an object without a dictionary": Entry(
        text(lambda m, batch: m.head(m.tok(batch.ids) + m.pos(positions(batch.ids)))),
        lambda b: Slotted(words(b)),
    ),
    "a dictionary": Entry(
        text(lambda m, batch: m.head(m.tok(batch["ids"]) + m.pos(positions(batch["ids"])))),
        lambda b: {"ids": words(b)},
    ),
    "keywords": Entry(
        text(lambda m, *, ids, flag: m.head(m.tok(ids) + m.pos(positions(ids)))),
        lambda b: {"ids": words(b), "flag": True},
        lambda model, inputs: model(**inputs),
    ),
    "a list of tensors": Entry(
        made(lambda m, x: m.a(x[0]) * m.b(x[1]), a=lambda: nn.Linear(D, 3),
             b=lambda: nn.Linear(D, 3)),
        lambda b: [rows(b), rows(b)],
    ),
    "a mask of positions": Entry(
        text(lambda m, x, mask: m.head(attend(m.tok(x) + m.pos(positions(x)), mask))),
        lambda b: (words(b), causal()),
        lambda model, inputs: model(*inputs),
        sample=lambda inputs, i: (inputs[0][i : i + 1], inputs[1]),
    ),
    "a mask first": Entry(
        text(lambda m, mask, x: m.head(attend(m.tok(x) + m.pos(positions(x)), mask))),
        lambda b: (words(b), causal()),
        lambda model, inputs: model(inputs[1], inputs[0]),
        sample=lambda inputs, i: (inputs[0][i : i + 1], inputs[1]),
    ),
    "a mask in an object": Entry(
        text(lambda m, batch: m.head(attend(m.tok(batch.ids), batch.mask))),
        lambda b: Batch(words(b), causal()),
        sample=lambda batch, i: Batch(batch.ids[i : i + 1], batch.mask),
    ),
    "positions as an argument": Entry(
        text(lambda m, x, place: m.head(m.tok(x) + m.pos(place))),
        lambda b: (words(b), torch.arange(T)),
        lambda model, inputs: model(*inputs),
        sample=lambda inputs, i: (inputs[0][i : i + 1], inputs[1]),
    ),
    "centres as an argument": Entry(
        made(lambda m, x, c: torch.cdist(m.e(x), c), e=lambda: nn.Linear(D, D)),
        lambda b: (rows(b), torch.linspace(-1, 1, 7 * D).view(7, D)),
        lambda model, inputs: model(*inputs),
        autocast=False,
        sample=lambda inputs, i: (inputs[0][i : i + 1], inputs[1]),
    ),
    "its parts": Entry(
        made(lambda m: None, a=lambda: nn.Linear(D, 3), b=lambda: nn.Linear(3, 2)),
        rows,
        lambda model, inputs: model.b(model.a(inputs).tanh()),
    ),
    "a batch of its own size": Entry(
        made(lambda m, x: m.o(m.e(x).view(m.size, D)), e=lambda: nn.Linear(D, D),
             o=lambda: nn.Linear(D, 2)),
        rows,
        lambda model, inputs: (setattr(model, "size", len(inputs)), model(inputs))[1],
    ),
}  # fmt: skip
