"""Small models in which a measured layer could go wrong, by what makes them hard."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from adadagrad_kernels.statistics import StatisticsCheck, check_statistics
from adadagrad_kernels.statistics.contents import Contents

#: Positions of a sequence; a batch may have as many samples.
T = 6
#: Features, words of a vocabulary.
D, V = 4, 11


class Model(nn.Module):
    """Parts, and a function of them and the inputs."""

    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self, *args, **kwargs)


@dataclass
class Batch:
    """An object of a user's own."""

    ids: Tensor
    mask: Tensor | None = None


class Slotted:
    """Another, without a dictionary."""

    __slots__ = ("ids",)

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        build: makes the model.
        inputs: makes those of so many samples.
        call: runs the model on them.
        sample: the inputs of one sample, where rows do not tell.
        autocast: whether it runs in bfloat16 too.
        samples: how many there are, where the first tensor's rows do not tell.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    call: Callable[[nn.Module, Any], Any] = lambda model, inputs: model(inputs)
    sample: Callable[[Any, int], Any] | None = None
    autocast: bool = True
    samples: Callable[[Any], int] | None = None

    def check(self, model: nn.Module, inputs: Any, **settings: Any) -> StatisticsCheck:
        """Compare a measured step with a plain one, and its record with samples alone."""
        samples = self.samples and self.samples(inputs)
        settings = {"loss": self.loss, "sample": self.sample, "samples": samples} | settings
        return check_statistics(model, inputs, show=False, **settings)

    def loss(self, model: nn.Module, inputs: Any) -> Tensor:
        """A mean over the samples of all that the model gives."""
        outputs = [t for t in Contents.of(self.call(model, inputs)).tensors if t.requires_grad]
        means = [(t.square() + 0.3 * t).flatten(1).mean(1) for t in map(_wide, outputs)]
        return torch.stack(means).sum(0).mean()


def _wide(tensor: Tensor) -> Tensor:
    tensor = tensor if tensor.dim() > 1 else tensor.unsqueeze(1)
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def words(b: int) -> Tensor:
    return torch.randint(V, (b, T))


def rows(b: int) -> Tensor:
    return torch.randn(b, D)


def sequences(b: int) -> Tensor:
    return torch.randn(b, T, D)


def images(b: int) -> Tensor:
    return torch.randn(b, 2, 6, 6)


def text(run: Callable[..., Any], **parts: Any) -> Callable[[], nn.Module]:
    """Tokens, positions and a head, put together by ``run``."""

    def build() -> nn.Module:
        made = {name: part() if callable(part) else part for name, part in parts.items()}
        return Model(
            run, tok=nn.Embedding(V, D), pos=nn.Embedding(T, D), head=nn.Linear(D, V), **made
        )

    return build


def made(run: Callable[..., Any], **parts: Callable[[], Any]) -> Callable[[], nn.Module]:
    """Parts made anew for every model, and a function of them."""
    return lambda: Model(run, **{name: part() for name, part in parts.items()})


def positions(tokens: Tensor) -> Tensor:
    return torch.arange(tokens.shape[1])


def causal() -> Tensor:
    return torch.full((T, T), -torch.inf).triu(1)


def attend(h: Tensor, mask: Tensor) -> Tensor:
    return (h @ h.mT + mask.to(h.dtype)).softmax(-1) @ h


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


class Block(nn.Module):
    """A parameter of its own beside a layer, and a mask that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma, self.f = nn.Parameter(torch.ones(D)), nn.Linear(D, D)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        return h + self.gamma * ((h @ h.mT + mask.to(h.dtype)).softmax(-1) @ self.f(h))


class Scaled(nn.Embedding):
    """An embedding with a forward of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 4.0


class Holder(nn.Module):
    """Holds the bias of its layer too, as heads of Transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, 3)
        self.bias = self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh()


class Twice(nn.Module):
    """The same, and uses it once more."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, 3)
        self.bias = self.layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() * self.bias


def tied(one: nn.Module, other: nn.Module) -> nn.Module:
    other.weight = one.weight
    return other


def tied_text(table: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        tok = table()
        return Model(
            lambda m, x: m.head(m.tok(x).tanh()),
            tok=tok, head=tied(tok, nn.Linear(D, V, bias=False)),
        )  # fmt: skip

    return build


def tied_layers() -> nn.Module:
    one = nn.Linear(D, D)
    return nn.Sequential(one, nn.Tanh(), tied(one, nn.Linear(D, D)), nn.Tanh(), one)


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

PARAMETERS = {
    "tied embedding and head": Entry(tied_text(lambda: nn.Embedding(V, D)), words),
    "tied, of another class": Entry(tied_text(lambda: Scaled(V, D)), words),
    "tied layers": Entry(tied_layers, rows),
    "a holder": Entry(lambda: nn.Sequential(Holder(), nn.Linear(3, 2)), rows),
    "a holder that uses": Entry(lambda: nn.Sequential(Twice(), nn.Linear(3, 2)), rows),
    "a list of parameters": Entry(
        made(
            lambda m, x: m.o((x @ m.w[0]).tanh() * m.w[1]),
            w=lambda: nn.ParameterList([torch.randn(D, D), torch.randn(D)]),
            o=lambda: nn.Linear(D, 2),
        ),
        rows,
    ),
    "a dictionary of parameters in a list": Entry(
        made(
            lambda m, x: m.o(x * m.w[0]["a"]),
            w=lambda: nn.ModuleList([nn.ParameterDict({"a": torch.randn(D)})]),
            o=lambda: nn.Linear(D, 2),
        ),
        rows,
    ),
    "a block with a mask": Entry(
        made(lambda m, x: m.b(m.e(x), causal()).mean(1), e=lambda: nn.Linear(D, D), b=Block),
        sequences,
    ),
    "spectral norm": Entry(
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(D, 7)), nn.ReLU(), nn.Linear(7, 2)
        ),
        rows, autocast=False,
    ),
    "spectral norm by a hook": Entry(
        lambda: nn.Sequential(nn.utils.spectral_norm(nn.Linear(D, 7)), nn.Tanh(), nn.Linear(7, 2)),
        rows, autocast=False,
    ),
    "weight norm": Entry(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(D, 7)), nn.Linear(7, 2)), rows,
        autocast=False,
    ),
    "orthogonal": Entry(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(D, D)), nn.Linear(D, 2)),
        rows, autocast=False,
    ),
    "a parametrization of its own": Entry(
        lambda: _parametrized(nn.Conv2d(2, 3, 3)), images
    ),
    "frozen parts": Entry(
        lambda: nn.Sequential(
            nn.Linear(D, 5).requires_grad_(False), nn.Tanh(), nn.Linear(5, 5), nn.Tanh(),
            _frozen(nn.Linear(5, 3), "bias"), _frozen(nn.LayerNorm(3), "weight"), nn.Linear(3, 2),
        ),
        rows,
    ),
    "unused parts": Entry(
        made(lambda m, x: m.a(x), a=lambda: nn.Linear(D, 2), b=lambda: nn.Linear(D, 2)), rows
    ),
    "parts without an influence": Entry(
        made(lambda m, x: m.a(x) + 0 * m.b(x), a=lambda: nn.Linear(D, 2),
             b=lambda: nn.Linear(D, 2)),
        rows,
    ),
    "real and imaginary parts": Entry(
        made(
            lambda m, x: torch.fft.irfft(
                torch.fft.rfft(m.e(x)) * torch.view_as_complex(m.w), n=D
            ),
            e=lambda: nn.Linear(D, D), w=lambda: nn.Parameter(torch.randn(3, 2)),
        ),
        rows, autocast=False,
    ),
    "a bias before a normalisation": Entry(
        lambda: nn.Sequential(
            nn.ConvTranspose2d(2, 3, 4, 2, 1), nn.InstanceNorm2d(3), nn.Tanh(), nn.Conv2d(3, 1, 1)
        ),
        images,
    ),
}  # fmt: skip


class Half(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * weight


def _parametrized(layer: nn.Module) -> nn.Module:
    parametrize.register_parametrization(layer, "weight", Half())
    return layer


def _frozen(layer: nn.Module, name: str) -> nn.Module:
    getattr(layer, name).requires_grad_(False)
    return layer


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


class Bag(nn.Module):
    """EmbeddingBag of bags in rows."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag, self.o = nn.EmbeddingBag(V, D, mode=mode), nn.Linear(D, 2)

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        return self.o(self.bag(x, offsets))


class Attends(nn.Module):
    """MultiheadAttention with settings."""

    def __init__(self, call: dict[str, Any], **settings: Any) -> None:
        super().__init__()
        self.a, self.call = nn.MultiheadAttention(D, 2, **settings), call
        self.memory = nn.Linear(D, settings.get("kdim") or D)

    def forward(self, x: Tensor) -> Any:
        memory = self.memory(x)
        if not self.a.batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        mixed, _ = self.a(x, memory, memory, **self.call)
        return mixed if self.a.batch_first else mixed.transpose(0, 1)


LAYERS = {
    "convolutions": Entry(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2),
        ),
        images,
    ),
    "one dimension": Entry(
        lambda: nn.Sequential(nn.Conv1d(T, 3, 2, dilation=2), nn.Tanh(), nn.Flatten(),
                              nn.Linear(6, 2)),
        sequences,
    ),
    "three dimensions": Entry(
        lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(81, 2)),
        lambda b: torch.randn(b, 2, 4, 4, 4),
    ),
    "transposed convolutions": Entry(
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2, 2), nn.Tanh(),
                              nn.ConvTranspose2d(3, 1, 3, groups=1)),
        images,
    ),
    "instance norm": Entry(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.Tanh()),
        images,
    ),
    "layer, RMS and group norm": Entry(
        lambda: nn.Sequential(nn.Linear(D, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.RMSNorm(6),
                              nn.Linear(6, 2)),
        sequences,
        autocast=False,
    ),
    "batch norm that is frozen": Entry(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3).eval(), nn.Tanh()), images,
        autocast=False,
    ),
    "PReLU": Entry(lambda: nn.Sequential(nn.Linear(D, 5), nn.PReLU(5), nn.Linear(5, 2)), rows),
    "bilinear": Entry(
        made(lambda m, x: m.b(m.e(x), x), e=lambda: nn.Linear(D, 3),
             b=lambda: nn.Bilinear(3, D, 2)),
        rows,
        autocast=False,
    ),
    "embedding with padding": Entry(
        lambda: nn.Sequential(nn.Embedding(V, D, padding_idx=0), nn.Linear(D, 2)), words
    ),
    "bags, mean": Entry(lambda: Bag("mean"), words, autocast=False),
    "bags, sum": Entry(lambda: Bag("sum"), words, autocast=False),
    "bags of several lengths": Entry(
        lambda: Bag("mean"),
        lambda b: (torch.randint(V, (2 * b + 1,)), torch.arange(0, 2 * b, 2)),
        lambda model, inputs: model(*inputs),
        sample=lambda inputs, i: (
            inputs[0][2 * i : 2 * i + 2 + (i == len(inputs[1]) - 1)], torch.tensor([0])
        ),
        autocast=False,
        samples=lambda inputs: len(inputs[1]),
    ),
    "bags, max": Entry(lambda: Bag("max"), words, autocast=False),
    "attention": Entry(lambda: Attends({}, batch_first=True), sequences),
    "attention, time first, no weights": Entry(
        lambda: Attends({"need_weights": False}), sequences
    ),
    "attention with a key more": Entry(
        lambda: Attends({}, batch_first=True, add_bias_kv=True), sequences
    ),
    "attention with zeros": Entry(
        lambda: Attends({}, batch_first=True, add_zero_attn=True, bias=False), sequences
    ),
    "attention of other widths": Entry(
        lambda: Attends({}, batch_first=True, kdim=3, vdim=3), sequences
    ),
    "attention with a mask": Entry(
        lambda: Attends(
            {"attn_mask": causal() < 0, "average_attn_weights": False}, batch_first=True
        ),
        sequences,
    ),
    "a Transformer's encoder": Entry(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=True), 2
        ),
        sequences,
    ),
    "a Transformer's decoder": Entry(
        made(
            lambda m, x: m.d(x, m.e(x)), e=lambda: nn.Linear(D, D),
            d=lambda: nn.TransformerDecoder(
                nn.TransformerDecoderLayer(D, 2, 8, dropout=0.0, batch_first=True), 1
            ),
        ),
        sequences,
    ),
}  # fmt: skip

ZOO = SHARED_VALUES | WAYS_TO_CALL | TIES | PARAMETERS | PASSES | LAYERS
