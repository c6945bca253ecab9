"""Inputs without rows of their own for the samples, and batches of other sizes than the first."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from refusals import refused
from shares import Shares
from torch import Tensor, nn

from adadagrad_kernels.errors import UnsupportedModelError
from adadagrad_kernels.statistics import layer_statistics

B = 6


class Tokens(nn.Module):
    """Adds positions, as ``add`` makes them broadcast."""

    def __init__(self, add: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(9, 4), nn.Embedding(9, 4)
        self.head, self.add = nn.Linear(4, 9), add

    def forward(self, tokens: Tensor) -> Tensor:
        positions = self.add(self.positions, torch.arange(tokens.shape[1]))
        output: Tensor = self.head(self.embedding(tokens) + positions)
        return output


@pytest.mark.parametrize("length", [B - 1, B])
def test_positions_with_a_dimension_too_many(length: int) -> None:
    """An unsqueeze would make [1, samples, ...] of what has its samples already."""
    model = Tokens(lambda layer, positions: layer(positions).unsqueeze(0)).double()
    with refused(model, "layer 'head' (Linear)", "unsqueeze"), layer_statistics(model):
        model(torch.randint(9, (B, length)))


def test_positions_of_which_one_row_is_taken() -> None:
    model = Tokens(lambda layer, positions: layer(positions.unsqueeze(0))[0]).double()
    with (
        refused(model, "layer 'positions' (Embedding)", "single row"),
        layer_statistics(model) as recorder,
    ):
        model(torch.randint(9, (B, 5))).square().sum().backward()
        recorder.statistics()


@pytest.mark.parametrize("first", [(4, 3), (5, 1), (3, 2), (1, 4), (2, 3)])
def test_positions_as_long_as_a_later_batch(first: tuple[int, int]) -> None:
    """Whatever the shape of the batch with which the model was asked."""
    model = Tokens(lambda layer, positions: layer(positions)).double()
    with layer_statistics(model) as recorder:
        model(torch.randint(9, first)).square().sum().backward()
        recorder.statistics()
    model.zero_grad()
    tokens = torch.randint(9, (B, B))
    expected = Shares(model, lambda i: model(tokens[i : i + 1]).square().sum(), B)
    with layer_statistics(model, variance=True) as recorder:
        model(tokens).square().sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)


@pytest.mark.parametrize("length", [B - 1, B])
def test_a_linear_layer_of_positions(length: int) -> None:
    class Distances(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (x + self.linear(torch.ones(length, 3))).square()

    model = Distances()
    with refused(model, "'linear' (Linear)", f"{length} rows"), layer_statistics(model):
        model(torch.randn(B, length, 4))


def test_a_last_chunk_of_one_sample_with_a_common_backward() -> None:
    """It is not a row that all samples of the first chunk share: the loss would change."""
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(B, 4)
    with refused(model, "1 rows", "a backward pass each"), layer_statistics(model):
        (model(x[1:]).square().sum() + model(x[:1]).square().sum()).backward()
    with layer_statistics(model) as recorder:
        for chunk in (x[1:], x[:1]):
            model(chunk).square().sum().backward()
        assert recorder.statistics().batch_size == B


def test_a_forward_pass_that_is_not_to_count() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(B, 4)
    with refused(model, "reset()"), layer_statistics(model):
        model(x[:2])
        model(x)
    with layer_statistics(model) as recorder:
        model(x[:2])
        recorder.reset()
        model(x).sum().backward()
        assert recorder.statistics().batch_size == B


def test_layers_called_by_themselves_after_the_model() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(B, 4)
    with layer_statistics(model) as recorder:
        model(x).sum().backward()
        model[0](x[:4]).sum().backward()
        assert recorder.statistics().batch_size == B + 4


def test_a_model_that_mixes_samples_after_a_batch_of_one() -> None:
    class Centred(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            return output - output.mean(0)

    model = nn.Sequential(Centred(4, 3))
    with (
        refused(model, "layer '0' (Centred)", "mixes", kind=UnsupportedModelError),
        layer_statistics(model) as recorder,
    ):
        model(torch.randn(1, 4)).square().sum().backward()
        recorder.statistics()
        model.zero_grad()
        model(torch.randn(B, 4))


def test_group_norm_of_a_transposed_input() -> None:
    model = nn.Sequential(nn.GroupNorm(1, 5), nn.ReLU(inplace=True)).double()
    x = torch.randn(B, 3, 5, dtype=torch.float64).transpose(1, 2)
    expected = Shares(model, lambda i: model(x[i : i + 1]).square().sum(), B)
    with layer_statistics(model, variance=True) as recorder:
        model(x).square().sum().backward()
        expected.check(model, recorder.statistics(), 1e-9)
