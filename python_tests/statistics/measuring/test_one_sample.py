"""A sample by itself must have the gradient in the record: what a few samples did not show."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support.zoo.entry import Model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from adadagrad_kernels import check_statistics
from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics
from adadagrad_kernels.statistics.measuring.comparison import Comparison
from adadagrad_kernels.statistics.measuring.trial import Question

B, D = 6, 4

Loss = Callable[[Any], Tensor]


def squares(output: Tensor) -> Tensor:
    return output.square().mean()


def of_all(model: nn.Module, batch: Any) -> Tensor:
    return squares(model(*batch))


def two_layers(run: Callable[..., Any], **more: Any) -> Model:
    return Model(run, a=nn.Linear(D, D), b=nn.Linear(D, 2), **more)


def step(model: nn.Module, *args: Any, loss: Loss = squares) -> Tensor:
    with layer_statistics(model) as recorder:
        loss(model(*args)).backward()
        record = recorder.statistics()
    assert record is not None
    assert record.sq_norms is not None
    return record.sq_norms


def routed(m: Any, x: Tensor) -> Tensor:
    """Experts that take as many tokens as the batch has samples, one of them none of the first."""
    h = m.a(x).reshape(-1, D)
    chosen = (x.reshape(-1, D)[:, 0] > 0).long()
    for k, expert in enumerate(m.experts):
        rows = (chosen == k).nonzero().flatten()
        if len(rows):
            h = h.index_add(0, rows, expert(h[rows]))
    return m.b(h.view(x.shape))


def test_an_expert_that_the_first_samples_do_not_call() -> None:
    model = two_layers(routed, experts=nn.ModuleList(nn.Linear(D, D) for _ in range(2)))
    x = torch.randn(B, 3, D)
    x[..., 0] = -1.0
    x.view(-1, D)[9:15, 0] = 1.0
    with pytest.raises(UnsupportedModelError, match=r"experts\.1.*sample 5"):
        step(model, x)


def test_edges_between_later_samples() -> None:
    """A graph that no three samples show."""

    def graph(m: Any, x: Tensor, edges: Tensor) -> Tensor:
        h = m.a(x)
        return m.b(h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))

    with pytest.raises(UnsupportedModelError, match="samples"):
        step(two_layers(graph), torch.randn(B, D), torch.tensor([[3, 4, 5], [4, 5, 3]]))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("mixes", [False, True])
def test_hooks_of_users(dropout: float, mixes: bool) -> None:
    model = two_layers(lambda m, x: m.b(m.drop(m.a(x))), drop=nn.Dropout(dropout))
    model.a.register_forward_hook(
        lambda module, given, output: output - output.mean(0) if mixes else 2 * output
    )
    if not mixes:
        step(model, torch.randn(B, D))
        return
    with pytest.raises(UnsupportedModelError, match="another gradient for sample 5"):
        step(model, torch.randn(B, D))


def test_a_mean_that_grows_from_zero() -> None:
    """The sum of the outputs is that of samples apart, until the weight has left zero."""
    model = two_layers(lambda m, x: m.b(m.a(x) + m.w * (m.a(x) - m.a(x).mean(0))),
                       w=nn.Parameter(torch.zeros(D)))  # fmt: skip
    with pytest.raises(ValueError, match="sample"):
        step(model, torch.randn(B, D))


def both(m: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    h = m.a(x).tanh()
    return h, h[:, 0], m.b(h)


def with_loss(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    z = m.b(m.a(x).tanh())
    return F.cross_entropy(z, torch.arange(len(z)) % 2), z


@pytest.mark.parametrize(
    ("run", "loss"),
    [
        (both, lambda o: o[0].abs().mean() + o[1].square().mean() + o[2].mean()),
        (with_loss, lambda o: o[0]),
        (with_loss, lambda o: o[0] + o[1].square().mean()),
        (lambda m, x: m.b(m.a(x)).transpose(0, 1), squares),
        (lambda m, x: {"out": m.b(m.a(x))}, lambda o: squares(o["out"])),
        (lambda m, x: m.b(checkpoint(m.a, x, use_reentrant=False)), squares),
        (lambda m, x: m.b(m.a(x)).mul_(2), squares),
        (lambda m, x: m.b(F.dropout(m.a(x)) + torch.rand(())), squares),
    ],
    ids=["on the way", "a loss", "a loss beside", "second", "dictionary", "checkpoint", "in place",
         "random"],
)  # fmt: skip
def test_what_is_right_is_left_alone(
    run: Callable[..., Any], loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compared, found equal, and nothing is said; ``.grad`` and draws are those of a plain step."""
    compared = []
    judge = Comparison.judge

    def noted(self: Comparison, *args: Any) -> str | None:
        compared.extend(self._calls)
        return judge(self, *args)

    monkeypatch.setattr(Comparison, "judge", noted)
    model, x = two_layers(run), torch.randn(B, D)
    torch.manual_seed(1)
    loss(model(x)).backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    after = torch.rand(3)
    model.zero_grad()
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(model, x, loss=loss)
    torch.testing.assert_close([p.grad for p in model.parameters()], plain)
    assert torch.equal(torch.rand(3), after)
    assert len(compared) == 1


def test_gradients_by_another_way_are_told() -> None:
    """A penalty on what a layer gave, kept on the model: the outputs do not tell its gradient."""

    def keeping(m: Any, x: Tensor) -> Tensor:
        m.kept.append(m.a(x).tanh())
        return m.b(m.kept[-1])

    model = two_layers(keeping, kept=[])
    with pytest.warns(UserWarning, match="by another way than what it returns"):
        step(model, torch.randn(B, D), loss=lambda o: squares(o) + squares(model.kept[-1]))
    assert len(model.kept) == 1


def categories(m: Any, x: Tensor, kinds: Tensor) -> Tensor:
    return m.b((m.a(x) + m.e(kinds)).tanh())


@pytest.mark.parametrize("kinds", [[0, 0, 1, 0, 1, 2], [1, 1, 0, 0, 0, 0], [0, 1, 0, 1, 0, 1]])
def test_samples_of_one_category(kinds: list[int]) -> None:
    """Exchanged for another of its category a sample changes nothing for a layer."""
    model = two_layers(categories, e=nn.Embedding(3, D))
    batch = (torch.randn(B, D), torch.tensor(kinds))
    assert len(step(model, *batch)) == B
    assert check_statistics(model, batch, of_all, show=False).ok


@pytest.mark.parametrize(("samples", "classes"), [(5, 3), (3, 5)])
def test_classes_that_all_samples_are_compared_with(samples: int, classes: int) -> None:
    """Two arguments of as many rows are not more of a batch than one that the output has."""
    model = two_layers(lambda m, x, e, prior: m.b(x) @ m.a(e)[:, :2].t() + prior)
    model.a.requires_grad_(False)
    batch = (torch.randn(samples, D), torch.randn(classes, D), torch.randn(classes))
    assert len(step(model, *batch)) == samples

    def one(batch: Any, i: int) -> Any:
        return batch[0][i : i + 1], *batch[1:]

    assert check_statistics(model, batch, of_all, sample=one, show=False).ok


@pytest.mark.parametrize("layers", [1, 2])
def test_a_recurrent_layer_with_its_state(layers: int) -> None:
    model = Model(lambda m, x, h, c: m.o(m.r(x, (h, c))[0]),
                  r=nn.LSTM(D, D, layers, batch_first=True), o=nn.Linear(D, 2))  # fmt: skip
    states = torch.randn(2, layers, B, D)
    batch = (torch.randn(B, 3, D), *states)
    assert len(step(model, *batch)) == B

    def one(batch: Any, i: int) -> Any:
        return batch[0][i : i + 1], *(state[:, i : i + 1] for state in batch[1:])

    assert check_statistics(model, batch, of_all, sample=one, show=False).ok


@pytest.mark.parametrize(
    ("run", "shape"),
    [
        (lambda m, x: m.b(m.a(x)).transpose(0, 1).flatten(0, 1), (B, 3, D)),
        (lambda m, x: F.dropout(m.b(m.a(x))).transpose(0, 1), (B, B, D)),
        (lambda m, x: F.dropout(m.b(m.a(x))).flatten(0, 1), (2, 3, D)),
    ],
    ids=["positions first, merged", "as many positions", "as many features"],
)
def test_samples_in_any_dimension_of_the_output(
    run: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    assert len(step(two_layers(run), torch.randn(shape))) == shape[0]


def losses(m: Any, x: Tensor) -> dict[str, Tensor]:
    h = m.a(x)
    few = x[:, 0] > 0
    return {"some": (h * few[:, None]).square().sum() / few.sum(), "all": m.b(h).square().mean()}


def test_a_model_that_gives_losses_alone_is_told_of_and_measured() -> None:
    x = torch.randn(B, D)
    x[:2, 0], x[2:, 0] = 1.0, -1.0
    with pytest.warns(UserWarning, match="no rows for the samples"):
        step(two_layers(losses), x, loss=lambda o: o["some"] + o["all"])


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models_of_an_own_class(backend: str) -> None:
    net = two_layers(lambda m, x: m.b(m.a(x).tanh()))
    part = Model(lambda m, x: m.o(m.net(x)), net=torch.compile(net, backend=backend),
                 o=nn.Linear(2, 2))  # fmt: skip
    for model in (torch.compile(two_layers(lambda m, x: m.b(m.a(x))), backend=backend), part):
        assert len(step(model, torch.randn(B, D))) == B  # type: ignore[arg-type]


def test_an_optimizer_in_the_backward_pass_is_named() -> None:
    model = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 2))

    def update(parameter: Tensor) -> None:
        with torch.no_grad():
            parameter.sub_(0.1 * parameter.grad)  # type: ignore[operator]
        parameter.grad = None

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    with pytest.raises(
        ValueError, match=r"hook, such as an optimizer .* has changed the parameter '2\.\w+'"
    ):
        step(model, torch.randn(B, D))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_under_autocast(half: torch.dtype) -> None:
    model = two_layers(lambda m, x: m.b(m.a(x).relu()))
    with torch.autocast("cpu", half):
        step(model, torch.randn(64, 5, D))


def test_hooks_of_parameters_do_not_hear_of_it() -> None:
    model, heard = two_layers(lambda m, x: m.b(m.a(x))), []
    model.a.weight.register_hook(lambda grad: heard.append(grad.norm()))
    step(model, torch.randn(B, D))
    assert len(heard) == 1


def test_an_input_that_was_changed_since_says_nothing() -> None:
    model, x = two_layers(lambda m, x: m.b(m.a(x * 1.0)).tanh()), torch.randn(B, D)

    def loss(output: Tensor) -> Tensor:
        x.zero_()
        return squares(output)

    step(model, x, loss=loss)


def test_parts_that_are_called_alone() -> None:
    """Positions of a part, as many as samples: nobody can tell, so it is told."""
    model = nn.ModuleDict({"tokens": nn.Linear(D, D), "places": nn.Linear(1, D)})
    with layer_statistics(model) as recorder:
        places = model["places"](torch.linspace(0, 1, B)[:, None])
        (model["tokens"](torch.randn(B, D)) + places).square().mean().backward()
        with pytest.warns(UserWarning, match="several of its parts are called alone"):
            recorder.statistics()
    coder = nn.ModuleDict({"encoder": nn.Linear(D, D), "decoder": nn.Linear(D, D)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with layer_statistics(coder) as recorder:
            coder["decoder"](coder["encoder"](torch.randn(B, D))).square().mean().backward()
            recorder.statistics()


COUNTER = 0


class Counting(nn.Module):
    """Counts in its class, in a name of this file and in an object that it is given."""

    calls = 0
    seen: list[int] = []  # noqa: RUF012 (shared on purpose)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, D)

    def forward(self, x: Tensor, cache: Any) -> Tensor:
        global COUNTER
        COUNTER += 1
        type(self).calls += 1
        self.seen.append(len(x))
        cache.kept.append(self.layer(x))
        result: Tensor = cache.kept[-1]
        return result


class Cache:
    """Empty until a forward pass fills it."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []


def test_what_lies_beside_the_model_is_as_before() -> None:
    cache, model = Cache(), Counting()
    before = COUNTER
    step(model, torch.randn(B, D), cache)
    assert (Counting.calls, Counting.seen, len(cache.kept), COUNTER) == (1, [B], 1, before + 1)
    Counting.calls, Counting.seen[:] = 0, []


def test_an_iterator_on_a_module_is_not_read() -> None:
    model = two_layers(lambda m, x: m.b(m.a(x) * next(m.scales)), scales=iter(range(1, 9)))
    with pytest.warns(UserWarning, match="holds an iterator"):
        step(model, torch.randn(B, D))
    assert next(model.scales) == 2


@pytest.mark.parametrize("place", [0, 7, 15])
def test_one_gradient_among_many_that_is_written_by_data(place: int) -> None:
    model = nn.Sequential(*(nn.Linear(D, D) for _ in range(16)))
    with layer_statistics(model) as recorder:
        squares(model(torch.randn(B, D))).backward()
        grad = model[place].weight.grad
        assert isinstance(grad, Tensor)
        grad.data.mul_(0.5)
        with pytest.raises(ValueError, match=rf"'{place}\.weight' was changed"):
            recorder.statistics()


def test_who_keeps_a_loss_keeps_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs: list[weakref.ref[Tensor]] = []
    outputs = Question.outputs

    def noted(self: Question, *args: Any) -> Any:
        given = outputs(self, *args)
        graphs.extend(weakref.ref(tensor) for tensor in given.tensors)
        return given

    monkeypatch.setattr(Question, "outputs", noted)
    model = two_layers(lambda m, x: m.b(m.a(x)))
    with layer_statistics(model) as recorder:
        losses = [squares(model(torch.randn(B, D))) for _ in range(12)]
        recorder.reset()
        model.zero_grad()
        losses.append(squares(model(torch.randn(B + 1, 3, D))))
        losses[-1].backward()
        recorder.statistics()
    gc.collect()
    assert len(graphs) > 1
    assert not any(graph() is not None for graph in graphs)
    assert len(losses) == 13
