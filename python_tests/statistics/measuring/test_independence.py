"""Whether samples are apart is asked for every way to call a model, and asking shows nowhere."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from support.zoo.entry import Batch, Model, Slotted
from torch import Tensor, nn
from torch.nn import functional as F

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 6


def centred(h: Tensor) -> Tensor:
    """What mixes samples."""
    return h - h.mean(0)


def step(model: nn.Module, *args: Any, **kwargs: Any) -> int:
    """A measured step; the size of its record."""
    with layer_statistics(model) as recorder:
        output = model(*args, **kwargs)
        output.square().mean().backward()
        record = recorder.statistics()
    assert record is not None
    return record.batch_size


@pytest.mark.parametrize(
    ("wrap", "unwrap"),
    [
        (lambda x: x, lambda x: x),
        (lambda x: {"a": {"b": x}}, lambda d: d["a"]["b"]),
        (lambda x: [None, (x, "name")], lambda batch: batch[1][0]),
        (Batch, lambda batch: batch.ids),
        (Slotted, lambda batch: batch.ids),
    ],
    ids=["tensor", "dictionaries", "list and tuple", "dataclass", "slots"],
)
def test_mixing_is_found_however_samples_are_passed(
    wrap: Callable[[Tensor], Any], unwrap: Callable[[Any], Tensor]
) -> None:
    apart = Model(lambda m, batch: m.a(unwrap(batch)).tanh(), a=nn.Linear(3, 4))
    assert step(apart, wrap(torch.randn(B, 3))) == B
    mixing = Model(lambda m, batch: m.b(centred(m.a(unwrap(batch)))), a=nn.Linear(3, 4),
                   b=nn.Linear(4, 2))  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="mixes the samples"):
        step(mixing, wrap(torch.randn(B, 3)))


def test_a_batch_of_one_size_alone() -> None:
    """A model that takes no other batch is asked with all of its samples."""
    fixed = Model(lambda m, x: m.b(centred(m.a(x).view(B, 4))), a=nn.Linear(3, 4),
                  b=nn.Linear(4, 2))  # fmt: skip
    with pytest.raises(UnsupportedModelError, match="mixes the samples"):
        step(fixed, torch.randn(B, 3))


@pytest.mark.parametrize("samples", [3, B])
def test_pairs_of_samples(samples: int) -> None:
    model = Model(lambda m, x: F.pdist(m.a(x)), a=nn.Linear(3, 4))
    with pytest.raises(UnsupportedModelError, match="pairs"):
        step(model, torch.randn(samples, 3))


class Switched(nn.Module):
    """Mixes samples by its mode, a flag, a number or an argument."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.mixes, self.stage = nn.Linear(3, 4), False, 0

    def forward(self, x: Tensor, stage: int = 0) -> Tensor:
        h = self.layer(x)
        return centred(h) if self.training or self.mixes or self.stage or stage else h


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model.train(), {})[1],
        lambda model: (setattr(model, "mixes", True), {})[1],
        lambda model: (setattr(model, "stage", 1), {})[1],
        lambda model: {"stage": 1},
    ],
    ids=["mode", "flag", "number", "argument"],
)
def test_asked_again_where_the_answer_may_change(change: Callable[[Any], dict[str, int]]) -> None:
    model = Switched().eval()
    assert step(model, torch.randn(B, 3)) == B
    model.zero_grad()
    arguments = change(model)
    with pytest.raises(UnsupportedModelError, match="mixes"):
        step(model, torch.randn(B, 3), **arguments)


def test_a_counter_is_not_asked_about_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(3, 4), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            asked.append(len(x))
            return self.layer(x)

    asked: list[int] = []
    model = Counting()
    for _ in range(20):
        model.zero_grad()
        step(model, torch.randn(B, 3))
    assert model.calls == 20
    # The sixteenth call is asked about in any case.
    assert asked[-4:] == [B] * 4


def test_experts_that_get_as_many_tokens_as_there_are_samples() -> None:
    def run(m: Any, x: Tensor, route: Tensor) -> Tensor:
        h = m.e(x)
        flat, out = h.reshape(-1, 4), torch.zeros_like(h).reshape(-1, 4)
        for k, expert in enumerate(m.experts):
            rows = (route.reshape(-1) == k).nonzero().flatten()
            out = out.index_add(0, rows, expert(flat[rows]))
        return out.view(h.shape).tanh()

    model = Model(run, e=nn.Linear(3, 4), experts=nn.ModuleList([nn.Linear(4, 4) for _ in "ab"]))
    route = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    with pytest.raises(UnsupportedModelError, match=r"experts.0.*depends on the inputs"):
        step(model, torch.randn(4, 2, 3), route)


def test_every_expert_on_all_tokens() -> None:
    """The way out."""

    def run(m: Any, x: Tensor, route: Tensor) -> Tensor:
        h = m.e(x)
        return sum(expert(h) * (route == k).unsqueeze(-1) for k, expert in enumerate(m.experts))

    model = Model(run, e=nn.Linear(3, 4), experts=nn.ModuleList([nn.Linear(4, 4) for _ in "ab"]))
    assert step(model, torch.randn(4, 2, 3), torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])) == 4


def test_sequences_with_their_samples_second() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    with pytest.raises(UnsupportedModelError, match=r"\[positions, samples, ...\].*batch_first"):
        step(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), torch.randn(5, 4, 8))
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    assert step(nn.TransformerEncoder(layer, 1), torch.randn(4, 5, 8)) == 4


def _chances() -> Iterator[tuple[str, Callable[[], float]]]:
    generator, numpy = torch.Generator(), np.random.default_rng(0)
    own = random.Random(0)
    yield "Python's", random.random
    yield "numpy's", lambda: float(np.random.rand())
    yield "torch's", lambda: float(torch.rand(()))
    yield "a generator of torch", lambda: float(torch.rand((), generator=generator))
    yield "a generator of numpy", lambda: float(numpy.random())
    yield "one of Python's own", own.random
    yield "the machine's", random.SystemRandom().random


@pytest.mark.parametrize("kind", [name for name, _ in _chances()])
@pytest.mark.filterwarnings("ignore:.*could not be asked")
def test_a_depth_by_chance_is_no_mixing(kind: str) -> None:
    chance = dict(_chances())[kind]

    def run(m: Any, x: Tensor) -> Tensor:
        for layer in m.layers:
            if chance() < 0.5:
                x = x + layer(x).tanh()
        return x + m.last(x)

    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(12))
    assert step(Model(run, layers=layers, last=nn.Linear(4, 4)), torch.randn(B, 4)) == B


@pytest.mark.parametrize("kind", ["Python's", "numpy's", "torch's"])
def test_random_numbers_go_on_as_in_a_plain_step(kind: str) -> None:
    chance = dict(_chances())[kind]
    model = Model(lambda m, x: m.layer(x) * (1.0 if chance() < 2 else 0.0), layer=nn.Linear(4, 4))

    def seed() -> None:
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    x = torch.randn(B, 4)
    seed()
    model(x).square().mean().backward()
    expected = chance()
    model.zero_grad()
    seed()
    step(model, x)
    assert chance() == expected


def test_what_cannot_be_asked_says_so() -> None:
    def run(m: Any, texts: list[str]) -> Tensor:
        codes = torch.tensor([[ord(c) for c in text] for text in texts]) % 9
        return m.o(m.e(codes))

    model = Model(run, e=nn.Embedding(9, 4), o=nn.Linear(4, 2))
    with pytest.warns(UserWarning, match=r"could not be asked.*no.*tensor.*check_statistics"):
        assert step(model, ["abc", "bcd"]) == 2


def test_a_loss_alone_says_so() -> None:
    model = Model(lambda m, x: m.a(x).square().mean(), a=nn.Linear(3, 4))
    with pytest.warns(UserWarning, match="no rows for the samples"):
        assert step(model, torch.randn(B, 3)) == B


def test_models_called_by_their_parts() -> None:
    """As training steps of Lightning do."""
    model = nn.ModuleDict({"a": nn.Linear(3, 4), "b": Model(lambda m, h: m.c(centred(h)),
                                                            c=nn.Linear(4, 2))})  # fmt: skip
    with layer_statistics(model), pytest.raises(UnsupportedModelError, match="mixes"):
        model["b"](model["a"](torch.randn(B, 3)))


def test_arguments_stay_as_they_are() -> None:
    """What a model takes out of its arguments, or writes to them, it does once."""

    def run(m: Any, batch: dict[str, Tensor], mask: Tensor) -> Tensor:
        mask += 1
        return m.a(batch.pop("x")) + mask

    model = Model(run, a=nn.Linear(3, 4))
    mask = torch.zeros(1)
    step(model, {"x": torch.randn(B, 3)}, mask)
    assert float(mask) == 1.0


def test_a_part_called_alone_with_indices_says_so() -> None:
    """Positions or labels: nothing tells."""
    model = nn.ModuleDict({"t": nn.Embedding(9, 4), "p": nn.Embedding(4, 4), "o": nn.Linear(4, 2)})
    with layer_statistics(model) as recorder:
        h = model["t"](torch.randint(9, (4, 4))) + model["p"](torch.arange(4))
        model["o"](h).square().mean().backward()
        with pytest.warns(UserWarning, match="row of indices, maybe positions"):
            recorder.statistics()


@pytest.mark.parametrize("how", ["in place", "through .data"])
def test_parameters_that_a_forward_pass_moves(how: str) -> None:
    """As an average of others, for a teacher; asking moves them no further."""

    class Averages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student, self.teacher = nn.Linear(3, 4), nn.Linear(3, 4).requires_grad_(False)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                average = 0.9 * self.teacher.weight + 0.1 * self.student.weight
                if how == "in place":
                    self.teacher.weight.copy_(average)
                else:
                    self.teacher.weight.data = average
            return self.student(x) * self.teacher(x)

    model = Averages()
    expected = 0.9 * model.teacher.weight + 0.1 * model.student.weight
    step(model, torch.randn(B, 3))
    torch.testing.assert_close(model.teacher.weight.data, expected.data)


def test_arguments_that_can_be_read_once() -> None:
    model = Model(lambda m, xs: sum(m.a(x) for x in xs), a=nn.Linear(3, 4))
    x = torch.randn(B, 3)
    with layer_statistics(model) as recorder:
        output = model(iter([x, x]))
        torch.testing.assert_close(output, 2 * model.a(x))
        output.square().mean().backward()
        with pytest.warns(UserWarning, match="read only once"):
            recorder.statistics()


@pytest.mark.parametrize("batch_first", [True, False])
def test_dropout_after_attention_drops_the_same(batch_first: bool) -> None:
    """It draws in memory order, so that a measured output must lie as the plain one does."""
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=batch_first)
    inputs = torch.randn(4, 5, 8)
    both = Model(
        lambda m, x: m.a(x) if batch_first else m.a(x.transpose(0, 1)).transpose(0, 1), a=model
    )
    losses, grads = [], []
    for measures in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        with layer_statistics(both, when=lambda measures=measures: measures):
            loss = both(inputs).square().mean()
            loss.backward()
        losses.append(loss.item())
        grads.append(model.linear1.weight.grad.clone())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize(
    "mix",
    [
        lambda h: torch.cat([h[:-1] + h[1:], h[-1:]]),
        lambda h: h.flip(0).cumsum(0).flip(0),
        lambda h: torch.cat([h[:1], h[1:] + h[:-1]]),
    ],
    ids=["the next", "all later", "the one before"],
)
def test_mixing_in_either_direction(mix: Callable[[Tensor], Tensor]) -> None:
    model = Model(lambda m, x: m.b(mix(m.a(x))), a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    with pytest.raises(UnsupportedModelError, match="mixes the samples"):
        step(model, torch.randn(B, 3))


def test_mixing_behind_a_weight_of_zeros() -> None:
    """The layer gives nothing yet, but what it is given is mixed."""
    model = Model(lambda m, x: m.b(m.a(x) + m.z(centred(m.a(x)))), a=nn.Linear(3, 4),
                  z=nn.Linear(4, 4), b=nn.Linear(4, 2))  # fmt: skip
    nn.init.zeros_(model.z.weight)
    nn.init.zeros_(model.z.bias)
    with pytest.raises(UnsupportedModelError, match=r"layer 'z' \(Linear\).*mixed"):
        step(model, torch.randn(B, 3))


@pytest.mark.parametrize("longest", [4, 5])
def test_positions_as_many_as_the_longest_sequence(longest: int) -> None:
    """Their number depends on the batch: by chance it is that of the samples."""

    def run(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
        size = int(lengths.max())
        inside = torch.arange(size) < lengths.unsqueeze(1)
        return (m.o(m.t(x[:, :size]) + m.p(torch.arange(size))) * inside.unsqueeze(2)).sum(1)

    model = Model(run, t=nn.Embedding(9, 4), p=nn.Embedding(6, 4), o=nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"'p' \(Embedding\)"):
        step(model, torch.randint(9, (4, 6)), torch.tensor([2, 2, 3, longest]))


def test_a_model_that_was_asked_is_freed() -> None:
    """Also where its settings know it, as a trainer does."""

    class Trainer:
        def __init__(self, model: nn.Module) -> None:
            self.model, self.fast = model, True

    model = Model(lambda m, x: m.a(x), a=nn.Linear(3, 4))
    model.trainer = Trainer(model)
    step(model, torch.randn(B, 3))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
