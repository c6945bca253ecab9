"""Embeddings, also of positions that all samples share, against one sample at a time."""

from __future__ import annotations

import pytest
import torch
from support.layer_records import B, assert_measured
from torch import Tensor, nn


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
