"""Embeddings, also of positions that all samples share, against one sample at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.layer_records import B, assert_measured
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("padding_idx", [None, 0, -1])
@pytest.mark.parametrize("sparse", [False, True])
def test_embeddings(shape: tuple[int, ...], padding_idx: int | None, sparse: bool) -> None:
    model = nn.Embedding(6, 3, padding_idx=padding_idx, sparse=sparse).double()
    indices = torch.randint(6, (B, *shape))
    indices[0] = indices[-1]
    assert_measured(model, indices, on_other="raise")
    assert model.weight.grad.is_sparse == sparse


def test_indices_that_are_a_view() -> None:
    indices = torch.randint(6, (4, B)).t()
    assert_measured(nn.Embedding(6, 3).double(), indices, on_other="raise")


class Embeds(nn.Module):
    """Positions of shape [1, T] or [T], which all samples share."""

    def __init__(self, leading: bool) -> None:
        super().__init__()
        self.leading = leading
        self.tokens, self.positions = nn.Embedding(6, 3), nn.Embedding(B, 3)

    def forward(self, indices: Tensor) -> Tensor:
        positions = torch.arange(indices.shape[1])
        if self.leading:
            positions = positions.unsqueeze(0)
        return (self.positions(positions) + self.tokens(indices)) * 2


@pytest.mark.parametrize("length", [3, B], ids=["shorter", "as long as the batch"])
@pytest.mark.parametrize("leading", [True, False])
def test_positions_that_all_samples_share(leading: bool, length: int) -> None:
    """Their gradient is a sum over the batch before it reaches the embedding, but for us."""
    model = Embeds(leading).double()
    assert_measured(model, torch.randint(6, (B, length)), on_other="raise")


#: An empty bag, one with a word twice, words that two bags share.
WORDS = torch.tensor([1, 1, 2, 4, 1, 0, 5, 5, 0, 3])
OFFSETS = torch.tensor([0, 3, 3, 4, 6, 7])


class RaggedBags(nn.Module):
    """Bags of different lengths."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.bags = nn.EmbeddingBag(6, 3, **settings).double()
        self.weights = torch.linspace(-1, 2, len(WORDS), dtype=torch.float64)

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        last = offsets.new_full((int(self.bags.include_last_offset),), len(words))
        weights = self.weights if self.bags.mode == "sum" else None
        found: Tensor = self.bags(words, torch.cat([offsets, last]), weights)
        return found


class SharedBags(RaggedBags):
    """Whose bags are added to every sample."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.unsqueeze(1) * super().forward(WORDS, OFFSETS)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("every", [False, True], ids=["starts", "and the end"])
@pytest.mark.parametrize("padding_idx", [None, 0])
@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.filterwarnings("ignore:RaggedBags could not be asked")
def test_bags_of_different_lengths(
    mode: str, every: bool, padding_idx: int | None, shadow: bool
) -> None:
    """A bag is a sample, and reaches its own outputs alone."""
    model = RaggedBags(mode=mode, include_last_offset=every, padding_idx=padding_idx)
    _assert_bags_measured(model, (WORDS, OFFSETS), shadow)


@pytest.mark.parametrize("shadow", [False, True])
def test_bags_that_all_samples_share(shadow: bool) -> None:
    inputs = torch.randn(B, 3, dtype=torch.float64)
    _assert_bags_measured(SharedBags(mode="mean", padding_idx=0), (inputs,), shadow)


def _assert_bags_measured(model: RaggedBags, given: tuple[Tensor, ...], shadow: bool) -> None:
    weight = model.bags.weight
    losses = model(*given).sin().flatten(1).sum(1)
    own = torch.stack([torch.autograd.grad(x, weight, retain_graph=True)[0] for x in losses])
    asked = {"variance": True, "inner_products": True, "shadow": shadow}
    with layer_statistics(model, **asked) as recorder:
        outputs = model(*given)
        (outputs.sin().sum() / len(outputs)).backward()
        record = recorder.statistics()
    assert record is not None
    assert record.variance is not None
    torch.testing.assert_close(weight.grad, own.mean(0))
    torch.testing.assert_close(record.sq_norms, own.flatten(1).square().sum(1))
    torch.testing.assert_close(record.inner_products, (own * own.mean(0)).flatten(1).sum(1))
    torch.testing.assert_close(record.variance["bags.weight"], own.var(0))
