"""What layer_statistics refuses: errors name the layer and the way out, the model is restored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adadagrad_kernels import BatchController, NormTest
from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 4


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


@contextmanager
def refused(model: nn.Module, *parts: str, kind: type[Exception] = ValueError) -> Iterator[None]:
    """The body raises with all of these words, and no module keeps a changed forward."""
    with pytest.raises(kind) as caught:
        yield
    for part in parts:
        assert part in str(caught.value), f"{part!r} is not in: {caught.value}"
    assert re.search(r"[Ww]ays? out|[Cc]all |[Uu]se |[Pp]ass ", str(caught.value))
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def plain(model: nn.Module, loss: Callable[[], Tensor]) -> list[Tensor | None]:
    model.zero_grad()
    loss().backward()
    found = [p.grad for p in model.parameters()]
    model.zero_grad()
    return found


def assert_intact(model: nn.Module, expected: list[Tensor | None]) -> None:
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False).eval()], ids=str
)
def test_batch_norm(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(3, 4), norm)
    with (
        refused(model, "layer '1' (BatchNorm1d)", "GroupNorm", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_batch_norm_that_leaves_evaluation_later() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval())
    with (
        refused(model, "layer '1' (BatchNorm1d)", kind=UnsupportedModelError),
        layer_statistics(model) as recorder,
    ):
        model(torch.randn(B, 3)).sum().backward()
        recorder.statistics()
        model.train()
        model(torch.randn(B, 3))


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_an_operation_that_mixes_samples() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Tanh(), Centred()), nn.Linear(4, 2))
    with (
        refused(model, "layer '1.1' (Centred)", "mixes", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_a_model_that_mixes_samples_itself() -> None:
    class Ranked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).softmax(0)

    model = Ranked(3, 2)
    with (
        refused(model, "the model", "mixes", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_asking_the_model_changes_nothing_of_it() -> None:
    """Neither buffers nor random draws nor the number of its calls in later steps."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.dropout = nn.Linear(3, 3), nn.Dropout(0.5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.dropout(self.linear(x))

    model, x = Counts(), torch.randn(B, 3)
    torch.manual_seed(5)
    expected = model(x)
    model.calls.zero_()
    torch.manual_seed(5)
    with layer_statistics(model):
        assert torch.equal(model(x), expected)
        assert model.calls == 1
        model(x)
        assert model.calls == 2


def test_an_activation_changed_in_place() -> None:
    class Overwrites(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            y = self.linear(x)
            x.mul_(2)
            return y

    model = Overwrites()
    loss = []
    with (
        refused(model, "layer 'linear' (Linear)", "inplace", "out-of-place", kind=RuntimeError),
        layer_statistics(model),
    ):
        loss.append(model(torch.randn(B, 3)).sum())
        loss[0].backward()
    assert model.linear.weight.grad is None


def test_an_input_of_another_module_changed_in_place() -> None:
    model = nn.PReLU(3)
    with refused(model, "(PReLU)", "in place", kind=RuntimeError), layer_statistics(model):
        x = torch.randn(B, 3)
        y = model(x)
        x.add_(1)
        y.sum().backward()


def test_a_layer_called_under_no_grad() -> None:
    model, x = network(), torch.randn(B, 3)

    def loss() -> Tensor:
        with torch.no_grad():
            hidden = model[0](x)
        return model[2](hidden.tanh()).square().sum()

    expected = plain(model, loss)
    with (
        refused(model, "layer '0' (Linear)", "no_grad", "requires_grad_(False)"),
        layer_statistics(model) as recorder,
    ):
        loss().backward()
        recorder.statistics()
    assert_intact(model, expected)


@pytest.mark.parametrize("shadow", [False, True])
def test_backward_called_twice(shadow: bool) -> None:
    """.grad is what two plain backward passes leave."""
    model, x = network(), torch.randn(B, 3)
    expected = plain(model, lambda: 2 * model(x).square().sum())
    with (
        refused(model, "layer '2' (Linear)", "backward ran twice", "add the losses"),
        layer_statistics(model, shadow=shadow) as recorder,
    ):
        loss = model(x).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        recorder.statistics()
    assert_intact(model, expected)


def test_statistics_before_a_backward() -> None:
    model, x = network(), torch.randn(B, 3)
    with refused(model, "backward"), layer_statistics(model) as recorder:
        recorder.statistics()
    with refused(model, "backward"), layer_statistics(model) as recorder:
        model(x)
        recorder.statistics()


def test_a_batch_dimension_that_differs() -> None:
    class Flattens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).flatten(0, 1)).view(len(x), -1)

    model = Flattens()
    with (
        refused(model, "layer 'second' (Linear)", "20 rows", f"{B} samples"),
        layer_statistics(model),
    ):
        model(torch.randn(B, 5, 3))


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Linear(3, 2), (3,)), (nn.Conv2d(3, 2, 1), (3, 4, 4))], ids=str
)
def test_inputs_without_samples(layer: nn.Module, shape: tuple[int, ...]) -> None:
    model = nn.Sequential(layer)
    with (
        refused(model, "layer '0'", "without a dimension", "[samples, ...]"),
        layer_statistics(model),
    ):
        model(torch.randn(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_activation_that_is_not_finite(value: float) -> None:
    model, x = network(), torch.randn(B, 3)
    x[1, 2] = value
    expected = plain(model, lambda: model(x).square().sum())
    with (
        refused(model, "layer '", "not finite", "on_nonfinite='record'"),
        layer_statistics(model) as recorder,
    ):
        model(x).square().sum().backward()
        recorder.statistics()
    for parameter, grad in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad, equal_nan=True)
    model.zero_grad()
    with layer_statistics(model, on_nonfinite="record") as recorder:
        model(x).square().sum().backward()
        record = recorder.statistics()
    assert not record.is_finite
    assert torch.isfinite(record.sq_norms).tolist() == [True, False, True, True]
    controller = BatchController(NormTest(eta=0.5), batch_size=B, max_batch_size=64)
    controller.update(record)
    assert (controller.batch_size, controller.nonfinite_steps) == (B, 1)


def test_gradients_left_from_an_earlier_step() -> None:
    model, x = network(), torch.randn(B, 3)
    model(x).sum().backward()
    with refused(model, "'0.weight'", "zero_grad()"), layer_statistics(model):
        model(x)
    model.zero_grad(set_to_none=False)
    with layer_statistics(model) as recorder:
        model(x).sum().backward()
        assert recorder.statistics().batch_size == B


def test_a_penalty_in_the_loss() -> None:
    """Its gradient belongs to no sample; .grad has it as ever."""
    model, x = network(), torch.randn(B, 3)

    def loss() -> Tensor:
        return model(x).square().mean() + 0.1 * model[0].weight.square().sum()

    expected = plain(model, loss)
    for shadow in (False, True):
        model.zero_grad()
        with (
            refused(model, "'0.weight'", "penalty", "weight_decay"),
            layer_statistics(model, shadow=shadow) as recorder,
        ):
            loss().backward()
            recorder.statistics()
        assert_intact(model, expected)


def test_a_parameter_used_outside_of_its_module() -> None:
    class Borrows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.lent = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.used(x), self.lent.weight)

    model, x = Borrows(), torch.randn(B, 3)
    expected = plain(model, lambda: model(x).square().sum())
    with (
        refused(model, "'lent.weight'", "PerSampleGradients", kind=UnsupportedModelError),
        layer_statistics(model) as recorder,
    ):
        model(x).square().sum().backward()
        recorder.statistics()
    assert_intact(model, expected)


def test_weights_tied_by_hand() -> None:
    """The head reads the embedding's weight, which only half of its gradient passes through."""

    class TiedByHand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(5, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.embedding(tokens).tanh() @ self.embedding.weight.T

    model, tokens = TiedByHand(), torch.randint(5, (B, 2))
    with (
        refused(model, "'embedding.weight'", "PerSampleGradients"),
        layer_statistics(model) as recorder,
    ):
        model(tokens).square().sum().backward()
        recorder.statistics()


def test_modules_of_other_kinds_where_they_are_not_wanted() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4))
    with refused(
        model, "layer '1' (PReLU)", "weight", "on_other='vmap'", kind=UnsupportedModelError
    ):
        layer_statistics(model, on_other="raise")


def test_modules_of_other_kinds_that_draw_random_numbers() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.dropout(self.scale * x, 0.5)

    model = nn.Sequential(nn.Linear(3, 3), Noisy())
    with (
        refused(model, "layer '1' (Noisy)", "random", "dropout", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_modules_of_other_kinds_that_give_a_loss() -> None:
    class Loses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return (self.scale * x).square().mean()

    model = Loses()
    with (
        refused(model, "the model (Loses)", "loss", kind=UnsupportedModelError),
        layer_statistics(model),
    ):
        model(torch.randn(B, 3))


def test_recurrent_layers() -> None:
    model = nn.LSTM(3, 4)
    with refused(model, "the model (LSTM)", "PerSampleGradients", kind=UnsupportedModelError):
        layer_statistics(model)


def test_reentrant_checkpoints_that_share_a_layer() -> None:
    from torch.utils.checkpoint import checkpoint

    shared = nn.Linear(3, 3)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = shared

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = checkpoint(self.shared, x, use_reentrant=True).tanh()
            return x

    model, x = Twice(), torch.randn(B, 3, requires_grad=True)
    with layer_statistics(model) as recorder:
        model(x).square().sum().backward()
        record = recorder.statistics()
    model.zero_grad()
    with layer_statistics(nn.Sequential(shared)) as recorder:
        shared(shared(x).tanh()).tanh().square().sum().backward()
        expected = recorder.statistics()
    torch.testing.assert_close(record.sq_norms, expected.sq_norms)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"interval": 0}, ("interval", "at least 1", "got 0")),
        ({"on_other": "ignore"}, ("on_other", "'vmap'", "'ignore'")),
        ({"on_nonfinite": "skip"}, ("on_nonfinite", "'record'", "'skip'")),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=words[0]) as caught:
        layer_statistics(network(), **settings)
    assert all(word in str(caught.value) for word in words)


def test_a_model_without_parameters() -> None:
    with pytest.raises(ValueError, match="no parameter that requires grad"):
        layer_statistics(network().requires_grad_(False))


def test_an_error_in_the_body_restores_the_model() -> None:
    model = network()
    with pytest.raises(KeyError), layer_statistics(model):
        raise KeyError
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(parameter._backward_hooks for parameter in model.parameters())


def test_second_derivatives() -> None:
    """A gradient penalty would need the derivative of the measured backward pass."""
    model, x = network(), torch.randn(B, 3, requires_grad=True)
    with layer_statistics(model):
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            grad.square().sum().backward()


def test_an_attention_used_for_one_sequence_and_for_two() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.attention(x, x, x, need_weights=False)[0]
            return self.attention(x, 2 * x, 2 * x, need_weights=False)[0]

    model = Both()
    words = ("layer 'attention' (MultiheadAttention)", "packed", "a module for each")
    with refused(model, *words, kind=UnsupportedModelError), layer_statistics(model):
        model(torch.randn(B, 3, 4))
