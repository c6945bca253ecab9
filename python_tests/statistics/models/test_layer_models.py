"""layer_statistics on models as other libraries write them, against one sample at a time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.shares import Shares
from torch import Tensor, nn

from adadagrad_kernels.statistics import layer_statistics

B, T = 3, 7
transformers = pytest.importorskip("transformers", reason="Transformers is not installed")

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 32}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def _make(name: str, config: str, attention: str = "eager", **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    made = getattr(transformers, config)(**settings, attn_implementation=attention)
    model: nn.Module = getattr(transformers, name)(made)
    return model.double().train()


def assert_measured(model: nn.Module, batch: dict[str, Tensor], weights: Tensor) -> None:
    """The mean over the samples of a loss that weighs every element of the logits."""

    def share(rows: slice) -> Tensor:
        picked = {name: tensor[rows] for name, tensor in batch.items()}
        logits = model(**picked).logits
        return (logits.tanh() * weights[rows]).sum() / B

    expected = Shares(model, lambda i: share(slice(i, i + 1)), B)
    model.zero_grad()
    with layer_statistics(model, inner_products=True, variance=True) as recorder:
        share(slice(0, B)).backward()
        record = recorder.statistics()
    expected.check(model, record, 1e-8)


def tokens() -> dict[str, Tensor]:
    mask = torch.ones(B, T, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(1, 20, (B, T)), "attention_mask": mask}


def random(*shape: int) -> Tensor:
    return torch.randn(B, *shape, dtype=torch.float64)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_gpt2(attention: str) -> None:
    """Conv1D projections, positions [1, T], and a head tied to the embedding."""
    model = _make(
        "GPT2LMHeadModel", "GPT2Config", attention,
        vocab_size=20, n_positions=9, n_embd=16, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    assert model.lm_head.weight is model.transformer.wte.weight
    assert_measured(model, tokens(), random(T, 20))


def test_gpt2_with_dropout_and_its_own_loss() -> None:
    """The library computes the loss: a mean over all tokens that have a label."""
    model = _make(
        "GPT2LMHeadModel", "GPT2Config",
        vocab_size=20, n_positions=9, n_embd=16, n_layer=1, n_head=2,
    )  # fmt: skip
    batch = tokens()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    torch.manual_seed(4)
    model(**batch, labels=labels).loss.backward()
    plain = [p.grad for p in model.parameters()]
    model.zero_grad()
    with layer_statistics(model) as recorder:
        torch.manual_seed(4)
        model(**batch, labels=labels).loss.backward()
        record = recorder.statistics()
    for parameter, grad in zip(model.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    assert record.batch_size == B
    assert record.sum_sq_norms >= B * record.mean_sq_norm > 0


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_llama(attention: str) -> None:
    """Grouped keys, and a normalisation of its own that multiplies by a bare parameter."""
    model = _make(
        "LlamaForCausalLM", "LlamaConfig", attention, **SMALL,
        vocab_size=20, num_key_value_heads=1, max_position_embeddings=16,
    )  # fmt: skip
    assert_measured(model, tokens(), random(T, 20))


def test_bert() -> None:
    """Three embeddings, of which two are shared by all samples; a decoder that is tied."""
    model = _make(
        "BertForMaskedLM", "BertConfig", **SMALL, **NO_DROPOUT,
        vocab_size=20, max_position_embeddings=9,
    )  # fmt: skip
    assert_measured(model, tokens(), random(T, 20))


def test_vit() -> None:
    """Bare parameters for the class and the positions."""
    model = _make(
        "ViTForImageClassification", "ViTConfig", **SMALL, **NO_DROPOUT,
        image_size=8, patch_size=4, num_labels=5,
    )  # fmt: skip
    assert_measured(model, {"pixel_values": random(3, 8, 8)}, random(5))


class Block(nn.Module):
    """Two convolutions and a shortcut, with GroupNorm and ReLU in place as torchvision has it."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.GroupNorm(2, out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.GroupNorm(2, out_channels)
        self.downsample = None
        if stride != 1 or channels != out_channels:
            shortcut = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.GroupNorm(2, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """Four stages of two blocks each, narrow enough for a loop over samples."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1, self.relu = nn.GroupNorm(2, width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(Block(before, after, 1 if i == 0 else 2), Block(after, after, 1))
                for i, (before, after) in enumerate(itertools.pairwise(sizes))
            )
        )
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.avgpool(self.stages(x)).flatten(1))


def test_resnet18_with_group_norm() -> None:
    torch.manual_seed(0)
    model = ResNet18(4, 5).double()
    images, labels = random(3, 32, 32), torch.randint(5, (B,))

    def share(rows: slice) -> Tensor:
        return F.cross_entropy(model(images[rows]), labels[rows], reduction="sum") / B

    expected = Shares(model, lambda i: share(slice(i, i + 1)), B)
    model.zero_grad()
    with layer_statistics(model, inner_products=True, variance=True, on_other="raise") as recorder:
        share(slice(0, B)).backward()
        record = recorder.statistics()
    expected.check(model, record, 1e-8)
