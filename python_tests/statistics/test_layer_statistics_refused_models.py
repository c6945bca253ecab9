"""Models that layer_statistics refuses, and settings: errors name the layer and the way out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.refusals import assert_intact, network, plain, refused
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 4


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


def test_recurrent_layers_of_other_classes() -> None:
    class Changed(nn.LSTM):
        def forward(self, input: Tensor, hx: object = None) -> Tensor:
            return super().forward(input, hx)[0]

    model = Changed(3, 4)
    with refused(model, "the model (Changed)", "MicroBatchGradients", kind=UnsupportedModelError):
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
    words = ("layer '2' (Linear)", "gradient penalty", "outside of the context")
    with refused(model, *words, kind=UnsupportedModelError), layer_statistics(model):
        torch.autograd.grad(model(x).square().sum(), x, create_graph=True)


def test_a_gradient_penalty_outside_of_the_context() -> None:
    """The way out: its gradient adds up in ``.grad`` after the record was taken."""
    model, x = network().double(), torch.randn(B, 3, dtype=torch.float64, requires_grad=True)

    def penalty() -> Tensor:
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        return grad.square().sum()

    expected = plain(model, lambda: model(x).square().mean() + penalty())
    with layer_statistics(model) as recorder:
        model(x).square().mean().backward()
        assert recorder.statistics().batch_size == B
    penalty().backward()
    assert_intact(model, expected)


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
