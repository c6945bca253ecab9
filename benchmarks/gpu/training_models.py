"""The models whose training steps a GPU is measured on, and small twins of them for a rehearsal.

Those of Transformers are built from their configuration, with random weights: nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.train_steps.real_models import ResNet

VOCABULARY = 50257


@dataclass(frozen=True)
class Model:
    """A model and its batch.

    Attributes:
        name: with its size.
        samples: of a batch.
        build: makes the module.
        batch: makes inputs and targets of so many samples, where tensors are made by default.
    """

    name: str
    samples: int
    build: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Tensor, Tensor]]


def models(*, small: bool) -> list[Model]:
    """In the order of their weight; ``small`` ones take no time on a CPU."""
    if small:
        return [
            resnet18(4, width=16, blocks=1),
            vit(4, layers=1, width=24, heads=2, image=16, patch=8),
            gpt2(3, layers=1, width=24, heads=2, tokens=8, vocabulary=50, tied=True),
            gpt2(3, layers=1, width=24, heads=2, tokens=8, vocabulary=50, tied=False),
            llama(3, layers=1, width=32, heads=4, tokens=8, vocabulary=50),
        ]
    return [
        resnet18(256),
        gpt2(16, tied=True),
        vit(128),
        llama(16),
        gpt2(16, tied=False),
    ]


def mean_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy in float32, its mean over samples and, where there are any, their tokens."""
    logits: Tensor = outputs if isinstance(outputs, Tensor) else outputs.logits
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def resnet18(samples: int, *, width: int = 64, blocks: int = 2) -> Model:
    """Normalised by groups; images of 32 x 32."""
    return Model(
        f"ResNet-{2 + 8 * blocks} x {width}, GroupNorm, batch {samples}",
        samples,
        lambda: ResNet(blocks, width),
        lambda size: (torch.randn(size, 3, 32, 32), torch.randint(10, (size,))),
    )


def vit(
    samples: int,
    *,
    layers: int = 12,
    width: int = 384,
    heads: int = 6,
    image: int = 224,
    patch: int = 16,
) -> Model:
    """ViT-S/16."""

    def build() -> nn.Module:
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width,
            num_attention_heads=heads, image_size=image, patch_size=patch, num_labels=10,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return ViTForImageClassification(config)

    return Model(
        f"ViT {layers} x {width}, batch {samples}",
        samples,
        build,
        lambda size: (torch.randn(size, 3, image, image), torch.randint(10, (size,))),
    )


def gpt2(
    samples: int,
    *,
    tied: bool,
    layers: int = 12,
    width: int = 768,
    heads: int = 12,
    tokens: int = 512,
    vocabulary: int = VOCABULARY,
) -> Model:
    """GPT-2 small, its head tied to the embedding or not."""

    def build() -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, vocab_size=vocabulary, n_positions=tokens,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
            bos_token_id=None, eos_token_id=None, tie_word_embeddings=tied,
        )  # fmt: skip
        return GPT2LMHeadModel(config)

    how = "tied" if tied else "untied"
    return _text(f"GPT-2 {layers} x {width}, {how}", samples, tokens, vocabulary, build)


def llama(
    samples: int,
    *,
    layers: int = 4,
    width: int = 2048,
    heads: int = 16,
    tokens: int = 512,
    vocabulary: int = VOCABULARY,
) -> Model:
    """Layers of a Llama: rotary positions, grouped keys, gated perceptrons."""

    def build() -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=width * 43 // 16,
            num_attention_heads=heads, num_key_value_heads=heads // 2, vocab_size=vocabulary,
            max_position_embeddings=tokens, use_cache=False,
        )  # fmt: skip
        return LlamaForCausalLM(config)

    return _text(f"Llama {layers} x {width}", samples, tokens, vocabulary, build)


def _text(
    name: str, samples: int, tokens: int, vocabulary: int, build: Callable[[], nn.Module]
) -> Model:
    def batch(size: int) -> tuple[Tensor, Tensor]:
        text = torch.randint(vocabulary, (size, tokens + 1))
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    return Model(f"{name}, batch {samples} x {tokens}", samples, build, batch)
