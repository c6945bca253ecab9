"""Attention: as torch has it, and against one sample at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.layer_records import B, assert_measured, normal
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics

ATTENTIONS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"batch_first": False},
    {"kdim": 5, "vdim": 7},
    {"add_zero_attn": True},
]


@pytest.mark.parametrize("settings", ATTENTIONS, ids=str)
@pytest.mark.parametrize("inputs", ["self", "same key and value", "all apart"])
@pytest.mark.parametrize("need_weights", [False, True])
def test_multi_head_attention(settings: dict[str, Any], inputs: str, need_weights: bool) -> None:
    if "kdim" in settings and inputs != "all apart":
        return
    settings = {"batch_first": True, **settings}
    model = nn.MultiheadAttention(4, 2, **settings).double()
    memory = normal(3, settings.get("kdim", 4)), normal(3, settings.get("vdim", 4))
    positions = normal(3, 4)
    padding = torch.tensor([[False, False, row % 2 == 1] for row in range(B)])
    first = (lambda t: t) if model.batch_first else (lambda t: t.transpose(0, 1))

    class Attends(nn.Module):
        """Takes the numbers of samples, which come first in whatever way the layer has it."""

        def __init__(self) -> None:
            super().__init__()
            self.attention = model

        def forward(self, rows: Tensor) -> Tensor:
            query = first(positions[rows])
            key, value = first(memory[0][rows]), first(memory[1][rows])
            if inputs == "self":
                key = value = query
            elif inputs == "same key and value":
                value = key
            output, _ = self.attention(
                query, key, value, key_padding_mask=padding[rows], need_weights=need_weights
            )
            return first(output)

    attends, rows = Attends(), torch.arange(B)
    native = attends(rows)
    with layer_statistics(attends):
        torch.testing.assert_close(attends(rows), native, rtol=1e-12, atol=1e-14)
    assert_measured(attends, rows, on_other="raise")


def test_attention_with_masks_and_weights_as_torch_has_it() -> None:
    model = nn.MultiheadAttention(4, 2, batch_first=True).double()
    x = normal(3, 4)
    causal = torch.ones(3, 3, dtype=torch.bool).triu(1)
    by_head = torch.randn(2 * B, 3, 3, dtype=torch.float64)
    for keywords in (
        {"attn_mask": causal, "is_causal": True, "need_weights": False},
        {"attn_mask": by_head, "average_attn_weights": False},
        {"attn_mask": by_head[0], "need_weights": True},
    ):
        native = model(x, x, x, **keywords)
        with layer_statistics(model):
            ours = model(x, x, x, **keywords)
        torch.testing.assert_close(ours, native, rtol=1e-12, atol=1e-14)


def test_a_transformer_layer() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double()
    assert_measured(model, normal(3, 4), on_other="raise")
