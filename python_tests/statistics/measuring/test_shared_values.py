"""Values that all samples share, in every position: outputs stay as they are, shares are exact."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from support.shares import Shares
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

WIDTH = 4


class Learnt(nn.Module):
    """A table of a module's own, which takes no input."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(shape))

    def forward(self) -> Tensor:
        return self.table.sin()


class Tokens(nn.Module):
    """Tokens and positions, put together by ``join``."""

    def __init__(self, join: Callable[[Tokens, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(9, WIDTH), nn.Embedding(16, WIDTH)
        self.head, self.mix = nn.Linear(WIDTH, 9), nn.Linear(WIDTH, WIDTH)
        self.norm, self.learnt, self.scale = nn.LayerNorm(WIDTH), Learnt(16, WIDTH), Learnt()
        self.join = join

    def forward(self, tokens: Tensor) -> Tensor:
        return self.join(self, tokens, torch.arange(tokens.shape[1]))


JOINS: dict[str, Callable[[Tokens, Tensor, Tensor], Tensor]] = {
    "added": lambda m, t, i: m.head(m.embed(t) + m.place(i)),
    "added in place": lambda m, t, i: m.head(m.embed(t).add_(m.place(i))),
    "[None]": lambda m, t, i: m.head(m.embed(t) + m.place(i)[None]),
    "unsqueeze": lambda m, t, i: m.head(m.embed(t) + m.place(i).unsqueeze(0)),
    "view": lambda m, t, i: m.head(m.embed(t) + m.place(i).view(1, t.shape[1], WIDTH)),
    "expand": lambda m, t, i: m.head(m.embed(t) + m.place(i)[None].expand(len(t), -1, -1)),
    "repeat": lambda m, t, i: m.head(m.embed(t) + m.place(i).repeat(len(t), 1, 1)),
    "repeat of rows": lambda m, t, i: m.head(
        (m.embed(t).flatten(0, 1) + m.place(i).repeat(len(t), 1)).view(*t.shape, WIDTH)
    ),
    "transposed twice": lambda m, t, i: m.head(m.embed(t) + m.place(i).t().t()),
    "multiplied and subtracted": lambda m, t, i: m.head(m.embed(t) * m.place(i) - m.place(i)),
    "a product with rows": lambda m, t, i: torch.matmul(m.embed(t), m.place(i).t()).softmax(-1),
    "an einsum": lambda m, t, i: torch.einsum("btd,sd->bts", m.embed(t), m.place(i)).sin(),
    "one row of one": lambda m, t, i: m.head(m.embed(t) + m.place(i[None])[0]),
    "one row for all": lambda m, t, i: m.head(m.embed(t) + m.place(i)[0]),
    "through layers": lambda m, t, i: m.head(m.embed(t) + m.norm(m.mix(m.place(i))).tanh()),
    "through layers, with a row": lambda m, t, i: m.head(
        m.embed(t) + m.norm(m.mix(m.place(i[None]))).tanh()
    ),
    "time first": lambda m, t, i: m.head(
        (m.embed(t).transpose(0, 1) + m.place(i)[:, None]).transpose(0, 1)
    ),
    "relative": lambda m, t, i: m.head(
        m.place((i[:, None] - i).abs()).sum(-1).softmax(-1) @ m.mix(m.embed(t))
    ),
    "joined": lambda m, t, i: m.head(
        torch.cat([m.place(i)[None].expand(len(t), -1, -1), m.embed(t)], 1)
    ),
    "used twice": lambda m, t, i: m.head(m.embed(t) + m.place(i) + m.place(i).exp()),
    "a learnt table": lambda m, t, i: m.head(m.embed(t) + m.learnt()[i]),
    "a learnt scalar": lambda m, t, i: m.head(m.embed(t) * m.scale()),
}


def loss(output: Tensor) -> Tensor:
    return output.square().flatten(1).sum()


@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("size", [(1, 5), (2, 5), (5, 5), (3, 7), (6, 3)], ids=str)
@pytest.mark.parametrize("name", JOINS)
def test_shares_are_those_of_the_samples(name: str, size: tuple[int, int], shadow: bool) -> None:
    """Batches shorter than, as long as and longer than their positions."""
    model = Tokens(JOINS[name]).double()
    tokens = torch.randint(9, size)
    if name == "a learnt table" and size[0] == size[1]:
        with layer_statistics(model, shadow=shadow) as recorder:
            loss(model(tokens)).backward()
            with pytest.raises(UnsupportedModelError, match=r"as long as the batch.*Embedding"):
                recorder.statistics()
        return
    plain = model(tokens)
    expected = Shares(model, lambda i: loss(model(tokens[i : i + 1])), len(tokens))
    asked = {"variance": len(tokens) > 1, "inner_products": True}
    with layer_statistics(model, shadow=shadow, **asked) as recorder:
        output = model(tokens)
        assert output.shape == plain.shape
        assert torch.equal(output, plain)
        loss(output).backward()
        expected.check(model, recorder.statistics(), 1e-9)


@pytest.mark.parametrize("first", [(4, 3), (5, 1), (3, 2), (1, 4), (2, 3)], ids=str)
def test_positions_as_long_as_a_later_batch(first: tuple[int, int]) -> None:
    """Whatever the shape of the batch with which the model was asked."""
    model = Tokens(JOINS["added"]).double()
    with layer_statistics(model) as recorder:
        loss(model(torch.randint(9, first))).backward()
        recorder.statistics()
    model.zero_grad()
    tokens = torch.randint(9, (6, 6))
    expected = Shares(model, lambda i: loss(model(tokens[i : i + 1])), 6)
    with layer_statistics(model, variance=True) as recorder:
        loss(model(tokens)).backward()
        expected.check(model, recorder.statistics(), 1e-9)


def test_what_no_sample_owns_is_refused() -> None:
    """A penalty on a shared value reaches the loss without meeting the samples."""
    model = Tokens(lambda m, t, i: (m.head(m.embed(t)), m.place(i)))  # type: ignore[arg-type,return-value]
    tokens = torch.randint(9, (4, 5))

    def total() -> Tensor:
        output, places = model(tokens)
        return loss(output) + places.square().sum()

    total().backward()
    plain = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with layer_statistics(model) as recorder:
        total().backward()
        with pytest.raises(UnsupportedModelError, match=r"'place' \(Embedding\).*Ways out"):
            recorder.statistics()
    for name, grad in plain.items():
        torch.testing.assert_close(dict(model.named_parameters())[name].grad, grad)


def test_the_way_out_works() -> None:
    """A row of positions for every sample."""

    def join(m: Tokens, t: Tensor, i: Tensor) -> Tensor:
        rows = m.place(i.repeat(len(t), 1))
        return m.head(m.embed(t)).flatten(1).sum(1) + rows.flatten(1).sum(1)

    model = Tokens(join).double()
    tokens = torch.randint(9, (4, 5))
    expected = Shares(model, lambda i: model(tokens[i : i + 1]).square().sum(), 4)
    with layer_statistics(model) as recorder:
        model(tokens).square().sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)


@pytest.mark.parametrize("backward", [True, False])
def test_graphs_are_let_go_of(backward: bool) -> None:
    model = Tokens(JOINS["through layers"])
    with layer_statistics(model) as recorder:
        output = model(torch.randint(9, (4, 5)))
        kept = weakref.ref(output.grad_fn)
        if backward:
            loss(output).backward()
            recorder.statistics()
        else:
            recorder.reset()
        del output
        gc.collect()
        assert kept() is None
