"""Models as they are in use, in float32 and under autocast: ResNet-18 and three of Transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.train_steps.models import Case

VOCABULARY = 8192


def real_models(*, quick: bool) -> Iterator[Case]:
    """In float32; two samples of one narrow layer, or of a block a stage, where time is short."""
    if quick:
        cases = [
            gpt2(2, layers=1, width=192, tokens=64),
            llama(2, layers=1, width=128, tokens=64),
            vit(2, layers=1, width=96),
            resnet18(2, blocks=1, width=16),
        ]
    else:
        cases = [gpt2(), llama(), vit(), resnet18()]
    yield from cases


def no_transformers() -> str | None:
    """Why the library's models cannot be built here."""
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        return f"needs Transformers (requirements/models.txt): {error}"
    return None


def gpt2(samples: int = 8, *, layers: int = 6, width: int = 768, tokens: int = 256) -> Case:
    """A head tied to the embedding, and positions that all samples share."""

    def model() -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            n_layer=layers, n_embd=width, n_head=12, vocab_size=VOCABULARY, n_positions=tokens,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
            bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return GPT2LMHeadModel(config)

    return _text("GPT-2", model, samples, layers, width, tokens)


def llama(samples: int = 8, *, layers: int = 6, width: int = 512, tokens: int = 256) -> Case:
    """Rotary positions, grouped keys, gated perceptrons and norms of the library's own."""

    def model() -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=width * 43 // 16,
            num_attention_heads=8, num_key_value_heads=4, vocab_size=VOCABULARY, use_cache=False,
        )  # fmt: skip
        return LlamaForCausalLM(config)

    return _text("Llama", model, samples, layers, width, tokens)


def _text(
    name: str, model: Callable[[], nn.Module], samples: int, layers: int, width: int, tokens: int
) -> Case:
    def batch(size: int) -> tuple[Tensor, Tensor]:
        text = torch.randint(VOCABULARY, (size, tokens + 1))
        return text[:, :-1].contiguous(), text[:, 1:].contiguous()

    return Case(
        f"{name} {layers} x {width}, batch {samples} x {tokens}", samples, model, batch,
        chunk=0, contributions=True, long=True, needs=no_transformers,
    )  # fmt: skip


def vit(samples: int = 32, *, layers: int = 6, width: int = 384) -> Case:
    """Images of 64 x 64 in 64 patches; bare parameters for the class and the positions."""

    def model() -> nn.Module:
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(
            num_hidden_layers=layers, hidden_size=width, intermediate_size=4 * width,
            num_attention_heads=6, image_size=64, patch_size=8, num_labels=10,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return ViTForImageClassification(config)

    def batch(size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 3, 64, 64), torch.randint(10, (size,))

    return Case(
        f"ViT {layers} x {width}, batch {samples}", samples, model, batch,
        chunk=0, contributions=True, long=True, needs=no_transformers,
    )  # fmt: skip


def resnet18(samples: int = 64, *, blocks: int = 2, width: int = 64) -> Case:
    """Images of 32 x 32: the stem is one convolution of 3 x 3, and there is no pooling."""

    def batch(size: int) -> tuple[Tensor, Tensor]:
        return torch.randn(size, 3, 32, 32), torch.randint(10, (size,))

    return Case(
        f"ResNet-{2 + 8 * blocks}, batch {samples}", samples, lambda: ResNet(blocks, width), batch,
        chunk=0, long=True,
    )  # fmt: skip


class ResNet(nn.Module):
    """Four stages of residual blocks, normalised by groups: a sample has a gradient of its own."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, width, 3, 1), _norm(width), nn.ReLU(inplace=True))
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        self.stages = nn.Sequential(
            *(
                ResidualBlock(before if i == 0 else after, after, 2 if i == 0 and stage > 0 else 1)
                for stage, (before, after) in enumerate(pairwise(sizes))
                for i in range(blocks)
            )
        )
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(8 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.stages(self.stem(images))).flatten(1))


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which projects where the size changes."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, outputs, 3, stride), _norm(outputs), nn.ReLU(inplace=True),
            _conv(outputs, outputs, 3, 1), _norm(outputs),
        )  # fmt: skip
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != outputs:
            self.shortcut = nn.Sequential(_conv(channels, outputs, 1, stride), _norm(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.relu(self.body(images) + self.shortcut(images))


def _conv(channels: int, outputs: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, kernel, stride, padding=kernel // 2, bias=False)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 2), channels)
