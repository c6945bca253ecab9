"""Layers and their settings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from support.zoo.entry import D, Entry, T, V, causal, images, made, rows, sequences, words


class Bag(nn.Module):
    """EmbeddingBag of bags in rows."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag, self.o = nn.EmbeddingBag(V, D, mode=mode), nn.Linear(D, 2)

    def forward(self, x: Tensor, offsets: Tensor | None = None) -> Tensor:
        return self.o(self.bag(x, offsets))


class Attends(nn.Module):
    """MultiheadAttention with settings."""

    def __init__(self, call: dict[str, Any], **settings: Any) -> None:
        super().__init__()
        self.a, self.call = nn.MultiheadAttention(D, 2, **settings), call
        self.memory = nn.Linear(D, settings.get("kdim") or D)

    def forward(self, x: Tensor) -> Any:
        memory = self.memory(x)
        if not self.a.batch_first:
            x, memory = x.transpose(0, 1), memory.transpose(0, 1)
        mixed, _ = self.a(x, memory, memory, **self.call)
        return mixed if self.a.batch_first else mixed.transpose(0, 1)


LAYERS = {
    "convolutions": Entry(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Tanh(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 2),
        ),
        images,
    ),
    "one dimension": Entry(
        lambda: nn.Sequential(nn.Conv1d(T, 3, 2, dilation=2), nn.Tanh(), nn.Flatten(),
                              nn.Linear(6, 2)),
        sequences,
    ),
    "three dimensions": Entry(
        lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(81, 2)),
        lambda b: torch.randn(b, 2, 4, 4, 4),
    ),
    "transposed convolutions": Entry(
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2, 2), nn.Tanh(),
                              nn.ConvTranspose2d(3, 1, 3, groups=1)),
        images,
    ),
    "instance norm": Entry(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.Tanh()),
        images,
    ),
    "layer, RMS and group norm": Entry(
        lambda: nn.Sequential(nn.Linear(D, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.RMSNorm(6),
                              nn.Linear(6, 2)),
        sequences,
        autocast=False,
    ),
    "batch norm that is frozen": Entry(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3).eval(), nn.Tanh()), images,
        autocast=False,
    ),
    "PReLU": Entry(lambda: nn.Sequential(nn.Linear(D, 5), nn.PReLU(5), nn.Linear(5, 2)), rows),
    "bilinear": Entry(
        made(lambda m, x: m.b(m.e(x), x), e=lambda: nn.Linear(D, 3),
             b=lambda: nn.Bilinear(3, D, 2)),
        rows,
        autocast=False,
    ),
    "embedding with padding": Entry(
        lambda: nn.Sequential(nn.Embedding(V, D, padding_idx=0), nn.Linear(D, 2)), words
    ),
    "bags, mean": Entry(lambda: Bag("mean"), words, autocast=False),
    "bags, sum": Entry(lambda: Bag("sum"), words, autocast=False),
    "bags of several lengths": Entry(
        lambda: Bag("mean"),
        lambda b: (torch.randint(V, (2 * b + 1,)), torch.arange(0, 2 * b, 2)),
        lambda model, inputs: model(*inputs),
        sample=lambda inputs, i: (
            inputs[0][2 * i : 2 * i + 2 + (i == len(inputs[1]) - 1)], torch.tensor([0])
        ),
        autocast=False,
        samples=lambda inputs: len(inputs[1]),
    ),
    "bags, max": Entry(lambda: Bag("max"), words, autocast=False),
    "attention": Entry(lambda: Attends({}, batch_first=True), sequences),
    "attention, time first, no weights": Entry(
        lambda: Attends({"need_weights": False}), sequences
    ),
    "attention with a key more": Entry(
        lambda: Attends({}, batch_first=True, add_bias_kv=True), sequences
    ),
    "attention with zeros": Entry(
        lambda: Attends({}, batch_first=True, add_zero_attn=True, bias=False), sequences
    ),
    "attention of other widths": Entry(
        lambda: Attends({}, batch_first=True, kdim=3, vdim=3), sequences
    ),
    "attention with a mask": Entry(
        lambda: Attends(
            {"attn_mask": causal() < 0, "average_attn_weights": False}, batch_first=True
        ),
        sequences,
    ),
    "a Transformer's encoder": Entry(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=True), 2
        ),
        sequences,
    ),
    "a Transformer's decoder": Entry(
        made(
            lambda m, x: m.d(x, m.e(x)), e=lambda: nn.Linear(D, D),
            d=lambda: nn.TransformerDecoder(
                nn.TransformerDecoderLayer(D, 2, 8, dropout=0.0, batch_first=True), 1
            ),
        ),
        sequences,
    ),
}  # fmt: skip
