"""Where no sample owns a gradient, or it cannot be told: the refusal's way out works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.zoo.entry import D, Entry, Model, T, V, images, made, rows, sequences, words
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import MicroBatchGradients, PerSampleGradients, layer_statistics

B = 6


def lengths(samples: int) -> Tensor:
    return 2 + torch.arange(samples) % 3


class Packs(nn.Module):
    """The last output of sequences of several lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.r = nn.GRU(D, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths(len(x)), batch_first=True, enforce_sorted=False)
        return self.r(packed)[1][0]


class Padded(nn.Module):
    """The same with lengths as an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.r = nn.GRU(D, 3, batch_first=True)

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        return self.r(x)[0][torch.arange(len(x)), ends - 1]


class Draws(nn.Module):
    """A parameter of its own, and dropout in the same module."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.scale * x, 0.5)


class Scales(nn.Module):
    """The parameter alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class GivesLoss(nn.Module):
    """A parameter of its own, and a loss as output."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(D))

    def forward(self, x: Tensor) -> Tensor:
        return (self.scale * x).square().mean()


def learnt(table: Callable[[Any, Tensor], Tensor], **parts: Callable[[], Any]) -> Any:
    return made(lambda m, x: m.o(m.e(x) + table(m, x)), e=lambda: nn.Embedding(V, D),
                o=lambda: nn.Linear(D, 2), **parts)  # fmt: skip


class Table(nn.Module):
    """A learnt table as a module without an input."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, D))

    def forward(self) -> Tensor:
        return self.table.sin()


#: What is refused, words of the message, and the same model by the way out.
REFUSED: dict[str, tuple[Entry, str, Entry]] = {
    "packed sequences": (
        Entry(Packs, sequences),
        r"packed sequence.*padded",
        Entry(Padded, lambda b: [sequences(b), lengths(b)], lambda m, inputs: m(*inputs)),
    ),
    "dropout between recurrent layers": (
        Entry(made(lambda m, x: m.r(x)[0],
                   r=lambda: nn.LSTM(D, 3, 2, dropout=0.5, batch_first=True)), sequences),
        r"has dropout between its layers.*a module for each layer",
        Entry(made(lambda m, x: m.b(m.drop(m.a(x)[0]))[0],
                   a=lambda: nn.LSTM(D, 3, batch_first=True), drop=lambda: nn.Dropout(0.0),
                   b=lambda: nn.LSTM(3, 3, batch_first=True)), sequences),
    ),
    "complex parameters": (
        Entry(made(lambda m, x: (torch.fft.rfft(x) * m.w).abs(),
                   w=lambda: nn.Parameter(torch.randn(3, dtype=torch.cfloat))), rows),
        r"complex64.*view_as_real",
        Entry(made(lambda m, x: (torch.fft.rfft(x) * torch.view_as_complex(m.w)).abs(),
                   w=lambda: nn.Parameter(torch.randn(3, 2))), rows),
    ),
    "weights that another layer makes": (
        Entry(made(lambda m, x: F.linear(x, m.h(m.z).view(3, D)),
                   z=lambda: nn.Parameter(torch.randn(1, 5)), h=lambda: nn.Linear(5, 3 * D)), rows),
        r"'h' \(Linear\).*all samples share.*a row for every sample",
        Entry(made(lambda m, x: torch.einsum("bod,bd->bo", m.h(m.z.expand(len(x), 5))
                                             .view(-1, 3, D), x),
                   z=lambda: nn.Parameter(torch.randn(1, 5)), h=lambda: nn.Linear(5, 3 * D)), rows),
    ),
    "rows of a table, as many as samples": (
        Entry(learnt(lambda m, x: m.t()[torch.arange(T)], t=Table), words),
        r"as long as the batch.*nn.Embedding",
        Entry(learnt(lambda m, x: m.t(torch.arange(T)).sin(), t=lambda: nn.Embedding(9, D)), words),
    ),
    "a module that draws": (
        Entry(lambda: nn.Sequential(nn.Linear(D, D), Draws()), rows),
        r"'1' \(Draws\).*random numbers.*a module of their own",
        Entry(lambda: nn.Sequential(nn.Linear(D, D), Scales(), nn.Dropout(0.0)), rows),
    ),
    "a module that gives a loss": (
        Entry(made(lambda m, x: (m.e(x), m.loss(x)), e=lambda: nn.Linear(D, 2), loss=GivesLoss),
              rows),
        r"'loss' \(GivesLoss\).*such as a loss.*a module of their own",
        Entry(made(lambda m, x: (m.e(x), m.s(x)), e=lambda: nn.Linear(D, 2), s=Scales), rows),
    ),
    "a borrowed parameter": (
        Entry(made(lambda m, x: F.linear(x, m.e.weight), e=lambda: nn.Linear(D, 2)), rows),
        r"'e.weight'.*outside of its module's forward.*hold the parameter where it is used",
        Entry(made(lambda m, x: F.linear(x, m.w), w=lambda: nn.Parameter(torch.randn(2, D))), rows),
    ),
    "the largest of bags of several lengths": (
        Entry(made(lambda m, x, starts: m.b(x, starts),
                   b=lambda: nn.EmbeddingBag(V, D, mode="max")),
              lambda b: (torch.randint(V, (2 * b,)), torch.arange(0, 2 * b, 2)),
              lambda m, inputs: m(*inputs)),
        r"largest rows.*padding_idx",
        Entry(made(lambda m, x: m.b(x),
                   b=lambda: nn.EmbeddingBag(V, D, mode="max", padding_idx=0)), words),
    ),
    "batch norm": (
        Entry(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), images),
        r"'1' \(BatchNorm2d\).*GroupNorm",
        Entry(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), images),
    ),
    "rows scaled by their counts": (
        Entry(lambda: nn.Embedding(V, D, scale_grad_by_freq=True), words),
        r"scale_grad_by_freq=False",
        Entry(lambda: nn.Embedding(V, D), words),
    ),
}  # fmt: skip


def _measured(entry: Entry, model: nn.Module, inputs: Any) -> None:
    with layer_statistics(model) as recorder:
        entry.loss(model, inputs).backward()
        recorder.statistics()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*could not be asked")
def test_the_way_out(name: str) -> None:
    entry, words_of_it, way_out = REFUSED[name]
    model, inputs = entry.build(), entry.inputs(T)
    with pytest.raises(ValueError, match=words_of_it):
        _measured(entry, model, inputs)
    for samples in (2, T):
        found = way_out.check(way_out.build(), way_out.inputs(samples))
        assert found.ok, f"\n{found}"


def test_frozen_batch_norm_and_micro_batches() -> None:
    """The other ways out of BatchNorm."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4))
    source = MicroBatchGradients(model)
    for _ in range(2):
        with source.micro_batch(B):
            (model(images(B)).square().mean() / 2).backward()
    assert source.result().batch_size == 2 * B
    model[1].eval()
    entry = Entry(lambda: model, images)
    assert entry.check(model, images(B)).ok


@pytest.mark.parametrize("name", ["weights that another layer makes", "a borrowed parameter"])
def test_per_sample_gradients_take_it(name: str) -> None:
    """The other way out that these name."""
    entry = REFUSED[name][0]
    model, x = entry.build().double(), entry.inputs(B).double()
    source = PerSampleGradients(model, lambda output, targets: output.square().mean())
    norms = source.backward(x, torch.zeros(B)).sq_norms
    expected = []
    for i in range(B):
        loss = model(x[i : i + 1]).square().mean()
        grads = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        expected.append(sum(g.square().sum() for g in grads if g is not None))
    torch.testing.assert_close(norms, torch.stack(expected))


def test_a_refusal_is_an_error_of_the_package() -> None:
    with pytest.raises(UnsupportedModelError):
        layer_statistics(Model(lambda m, x: x * m.w,
                               w=nn.Parameter(torch.ones(3, dtype=torch.cdouble))))  # fmt: skip
